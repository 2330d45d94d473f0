"""Prints a key's custom attributes as PyKMIP's client reads them, as JSON. Arguments: address, CA, certificate, key, key ID."""

import json
import sys

from kmip.core import enums
from kmip.pie.client import ProxyKmipClient

address, ca, certificate, key, key_id = sys.argv[1:]
host, port = address.rsplit(":", 1)
client = ProxyKmipClient(
    hostname=host,
    port=int(port),
    cert=certificate,
    key=key,
    ca=ca,
    ssl_version="PROTOCOL_TLSv1_2",
    kmip_version=enums.KMIPVersion.KMIP_1_4,
)
with client:
    names = [name for name in client.get_attribute_list(key_id) if name.startswith("x-")]
    _, attributes = client.get_attributes(key_id, names)
    print(json.dumps({str(a.attribute_name): a.attribute_value.value for a in attributes}))
