"""Client of the Nora backup service.

`Client` connects, with a token. It has one generated stub a service, whose calls
it repeats where that is safe, and methods for what takes more than one call.
`reason`, `wrong_fields` and `retry_delay` read what a `grpc.RpcError` carries.
The messages are in `nora.backup.v1`.
"""

from nora_backup_client.calls import Token
from nora_backup_client.client import Client
from nora_backup_client.errors import DOMAIN, reason, retry_delay, wrong_fields
from nora_backup_client.streams import StreamError

__all__ = [
    "DOMAIN",
    "Client",
    "StreamError",
    "Token",
    "reason",
    "retry_delay",
    "wrong_fields",
]
