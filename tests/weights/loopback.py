"""A server on the loopback interface that answers as the Hugging Face hub does."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's `files` by path, with the headers of the Hugging Face hub."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if found := getattr(self.server, "answers", {}).get(self.path):
            self.reply(*found)
        else:
            self.wfile.write(self.answer())

    def do_POST(self):
        """Answer as the server's function ``post`` of a path and a body does."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        self.server.requests.append(f"POST {self.path}")
        self.reply(*self.server.post(self.path, body))

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self):
        self.server.requests.append(f"{self.command} {self.path}")
        repository = "/".join(self.path.split("/")[:3])
        is_known = any(path.startswith(f"{repository}/") for path in self.server.files)
        missing = (404, "EntryNotFound" if is_known else "RepoNotFound")
        found = self.server.files.get(self.path, missing)
        body = b"" if isinstance(found, tuple) else found
        status, error = found if isinstance(found, tuple) else (200, None)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        return body

    def log_message(self, *args):
        pass


def place(server, name, **files):
    """Serve a repository: its files by name up to the dot, bytes or (status, error code)."""
    for stem, content in files.items():
        ending = "safetensors" if stem == "model" else "json"
        server.files[f"/{name}/resolve/main/{stem}.{ending}"] = content
