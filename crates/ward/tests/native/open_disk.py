"""Opens a disk from a backup of its native key provider: by docs/native-format.md, with openssl and cryptsetup, and
nothing of Ward. Writes what the guest sees to OUT.

With KEYS, writes KEK and DEK there, in hexadecimal, for a search after them.

usage: open_disk.py BACKUP PASSWORD_FILE DISK OUT [KEYS]
"""

import base64
import json
import re
import struct
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def run(*args, **kwargs):
    return subprocess.run(args, check=True, capture_output=True, **kwargs).stdout


def kdk_of(backup, password_file, key):
    """The KDK of a reference, from what openssl shows of the backup."""
    shown = run("openssl", "pkcs12", "-in", backup, "-nodes", "-passin", f"file:{password_file}").decode()
    name = f"{key['provider']} {key['key_id']} v{key['version']}"
    # What names a bag goes to standard output, what labels its value to standard error.
    for found, value in re.findall(r"friendlyName: (.*?)\s*\n([0-9A-F ]+)", shown):
        if found == name:
            return bytes.fromhex(value)
    sys.exit(f"the backup has no {name}:\n{shown}")


def kek_of(key, kdk):
    name = key["provider"].encode()
    info = b"ward native KEK v1\0" + struct.pack(">H", len(name)) + name
    info += uuid.UUID(key["key_id"]).bytes + struct.pack(">I", key["version"]) + uuid.UUID(key["vm"]).bytes
    salt = base64.b64decode(key["salt"])
    derived = run(
        "openssl", "kdf", "-keylen", "32", "-kdfopt", "digest:SHA256", "-kdfopt", f"hexkey:{kdk.hex()}",
        "-kdfopt", f"hexsalt:{salt.hex()}", "-kdfopt", f"hexinfo:{info.hex()}", "HKDF",
    )
    wrapping_key = derived.decode().strip().replace(":", "")
    wrapped = base64.b64decode(key["wrapped"])
    return run("openssl", "enc", "-d", "-id-aes256-wrap-pad", "-K", wrapping_key, "-iv", "a65959a6", input=wrapped)


def main(backup, password_file, disk, out, keys=None):
    metadata = json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", disk))
    key = next(token for token in metadata["tokens"].values() if token["type"] == "ward")["ward"]["key"]
    kek = kek_of(key, kdk_of(backup, password_file, key))
    with tempfile.TemporaryDirectory() as directory:
        kek_file, dek_file = Path(directory, "kek"), Path(directory, "dek")
        kek_file.write_bytes(kek)
        run("cryptsetup", "open", "--test-passphrase", "--key-file", kek_file, disk)
        run(
            "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", kek_file,
            "--volume-key-file", dek_file, disk,
        )
        dek = dek_file.read_bytes()
    if keys:
        Path(keys).write_text(f"{kek.hex()}\n{dek.hex()}\n")
    # Where cryptsetup could map the disk, it would do the rest.
    segment = metadata["segments"]["0"]
    sector_size = segment["sector_size"]
    content = Path(disk).read_bytes()[int(segment["offset"]):]
    with open(out, "wb") as plain:
        for at in range(0, len(content), sector_size):
            tweak = (at // 512).to_bytes(16, "little")
            decryptor = Cipher(algorithms.AES(dek), modes.XTS(tweak)).decryptor()
            plain.write(decryptor.update(content[at:at + sector_size]))


main(*sys.argv[1:])
