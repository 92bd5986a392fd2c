"""A typed client of Adumbra's API: the use cases of a server, with the records that they have here.

from adumbra.client import Client

with Client("https://adumbra.example:8642") as client:  # the token from ADUMBRA_TOKEN, or ADUMBRA_TOKEN_FILE
    for network in client.networks():
        print(network.name, network.record.state)
"""

from adumbra.client.access import Access
from adumbra.client.client import Client

__all__ = ["Access", "Client"]
