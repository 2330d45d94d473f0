"""A key's life, asked for by PyKMIP's client. Arguments: configuration file, KMIP version (such as 1.2)."""

import sys

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from kmip.core import enums, objects
from kmip.core.attributes import CustomAttribute
from kmip.core.factories.attributes import AttributeFactory
from kmip.pie.client import ProxyKmipClient
from kmip.pie.exceptions import KmipOperationFailure

A = enums.AttributeType
R = enums.ResultReason


def refused(reason, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except KmipOperationFailure as failure:
        assert failure.reason == reason, failure
    else:
        raise AssertionError(f"{call} should have failed with {reason}")


def custom(name, value):
    return objects.Attribute(
        attribute_name=objects.Attribute.AttributeName(name), attribute_value=CustomAttribute(value)
    )


def in_2(reason, otherwise):
    """KMIP 2 has more reasons; to an older client the nearest is told."""
    return reason if version.startswith("2") else otherwise


configuration, version = sys.argv[1:]
kmip_version = getattr(enums.KMIPVersion, "KMIP_" + version.replace(".", "_"))
name = f"key at {version}"

with ProxyKmipClient(config="client", config_file=configuration, kmip_version=kmip_version) as client:
    key_id = client.create(enums.CryptographicAlgorithm.AES, 256, name=name)
    names = client.get_attribute_list(key_id)
    assert "State" in names and "Name" in names and "Digest" in names, names
    assert "Activation Date" not in names, names

    client.activate(key_id)
    refused(in_2(R.WRONG_KEY_LIFECYCLE_STATE, R.PERMISSION_DENIED), client.activate, key_id)
    key = client.get(key_id)
    assert key.cryptographic_algorithm == enums.CryptographicAlgorithm.AES
    assert key.cryptographic_length == 256 and len(key.value) == 32

    _, attributes = client.get_attributes(key_id, ["State", "Cryptographic Length", "Activation Date"])
    assert [str(a.attribute_name) for a in attributes] == ["Cryptographic Length", "State", "Activation Date"]
    assert attributes[1].attribute_value.value == enums.State.ACTIVE
    # Everything there is has to be readable for a client of this version.
    _, everything = client.get_attributes(key_id)
    assert len(everything) >= 11, everything

    # Encrypt came with KMIP 1.2.
    if version not in ("1.0", "1.1"):
        how = {
            "cryptographic_algorithm": enums.CryptographicAlgorithm.AES,
            "block_cipher_mode": enums.BlockCipherMode.CBC,
            "padding_method": enums.PaddingMethod.PKCS5,
        }
        iv = bytes(range(16))
        sealed, _ = client.encrypt(b"a secret", uid=key_id, cryptographic_parameters=how, iv_counter_nonce=iv)
        assert sealed != b"a secret" and len(sealed) == 16
        opened = client.decrypt(sealed, uid=key_id, cryptographic_parameters=how, iv_counter_nonce=iv)
        assert opened == b"a secret", opened
        # By the key itself, and a library that is not the server's.
        cipher = Cipher(algorithms.AES(key.value), modes.CBC(iv)).decryptor()
        assert (cipher.update(sealed) + cipher.finalize()) == b"a secret" + b"\x08" * 8

    factory = AttributeFactory()
    by_name = factory.create_attribute(A.NAME, name)
    active = factory.create_attribute(A.STATE, enums.State.ACTIVE)
    pre_active = factory.create_attribute(A.STATE, enums.State.PRE_ACTIVE)
    assert client.locate(attributes=[by_name]) == [key_id]
    assert client.locate(attributes=[by_name, active]) == [key_id]
    assert client.locate(attributes=[by_name, pre_active]) == []

    # Custom attributes, which the high-level client has no way to ask for, and PyKMIP none at all in KMIP 2.
    if not version.startswith("2"):
        template = objects.TemplateAttribute(
            attributes=[
                factory.create_attribute(A.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.AES),
                factory.create_attribute(A.CRYPTOGRAPHIC_LENGTH, 256),
                factory.create_attribute(
                    A.CRYPTOGRAPHIC_USAGE_MASK,
                    [enums.CryptographicUsageMask.ENCRYPT, enums.CryptographicUsageMask.DECRYPT],
                ),
                custom("x-Product", "Ward"),
                custom("x-Identifier", version),
            ]
        )
        result = client.proxy.create(enums.ObjectType.SYMMETRIC_KEY, template)
        assert result.result_status.value == enums.ResultStatus.SUCCESS, result.result_message
        tagged = result.uuid
        _, attributes = client.get_attributes(tagged, ["x-Product", "x-Identifier"])
        assert {str(a.attribute_name): a.attribute_value.value for a in attributes} == {
            "x-Product": "Ward",
            "x-Identifier": version,
        }, attributes
        assert client.locate(attributes=[custom("x-Identifier", version)]) == [tagged]
        assert client.locate(attributes=[custom("x-Identifier", "other")]) == []

    refused(in_2(R.WRONG_KEY_LIFECYCLE_STATE, R.PERMISSION_DENIED), client.destroy, key_id)
    client.revoke(enums.RevocationReasonCode.CESSATION_OF_OPERATION, key_id)
    _, attributes = client.get_attributes(key_id, ["State"])
    assert attributes[0].attribute_value.value == enums.State.DEACTIVATED
    client.destroy(key_id)
    refused(in_2(R.OBJECT_DESTROYED, R.ITEM_NOT_FOUND), client.get, key_id)
    refused(in_2(R.OBJECT_NOT_FOUND, R.ITEM_NOT_FOUND), client.get, "no-such-key")
    taken = in_2(R.NON_UNIQUE_NAME_ATTRIBUTE, R.INVALID_FIELD)
    refused(taken, client.create, enums.CryptographicAlgorithm.AES, 256, name=name)

print(key_id)
