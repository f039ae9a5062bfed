"""A server on the loopback interface that answers as the Hugging Face hub does."""

import hashlib
from http.server import BaseHTTPRequestHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Answers from the server's `files` by path, with the headers of the Hugging Face hub."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.wfile.write(self.answer())

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
