"""Client of the Nora backup service.

`Client` connects, with a token, and has one generated stub a service; `reason`
and `retry_delay` read what an error carries. The messages are in
`nora.backup.v1`.
"""

from nora_backup_client.client import Client, Token
from nora_backup_client.errors import DOMAIN, reason, retry_delay

__all__ = ["DOMAIN", "Client", "Token", "reason", "retry_delay"]
