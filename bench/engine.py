"""A container that holds the corpus, on the private Docker Engine of the tests."""
import http.client, json, socket, subprocess, urllib.parse
from pathlib import Path

from measure import Failed, Measured, run

IMAGE = "nora-test-agent:latest"


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str):
        super().__init__("engine", timeout=600)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Container:
    """A running container with a folder's contents in its volume /data."""

    def __init__(self, host: str, name: str, folder: Path):
        self.socket, self.name = host.removeprefix("unix://"), name
        self.call("POST", "/containers/create?name=" + name,
                  json.dumps({"Image": IMAGE, "Cmd": ["/bin/sleep", "100000"], "Volumes": {"/data": {}}}).encode(),
                  "application/json")
        self.call("POST", f"/containers/{name}/start")
        tar = subprocess.Popen(["tar", "-c", "-C", str(folder), "."], stdout=subprocess.PIPE)
        self.call("PUT", f"/containers/{name}/archive?path=/data", tar.stdout, "application/x-tar")
        if tar.wait():
            raise Failed("tar of the corpus")

    def call(self, method: str, path: str, body=None, kind: str = "application/json") -> bytes:
        connection = Connection(self.socket)
        connection.request(method, path, body, {"Content-Type": kind}, encode_chunked=hasattr(body, "read"))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {text.decode(errors='replace').strip()}")
        return text

    def read_raw(self) -> Measured:
        """Reads /data as the engine gives it, and throws it away."""
        path = urllib.parse.quote("/data", safe="")
        return run(["curl", "--silent", "--fail", "--output", "/dev/null", "--unix-socket", self.socket,
                    f"http://engine/containers/{self.name}/archive?path={path}"])

    def remove(self) -> None:
        self.call("DELETE", f"/containers/{self.name}?force=1&v=1")
