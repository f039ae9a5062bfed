"""`flax-resnet serve` as a process: its page in a browser, and its end under load."""

import base64
import http.client
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

import flax_resnet as fr
from tests.inference.conftest import CLASSES, photo

for package in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)
pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def running(run):
    """A server that is ready, as a process, and its port."""
    command = [sys.executable, "-m", "flax_resnet", "serve", str(run), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        try:
            line = server.stdout.readline()
            yield server, int(re.match(r"http://127\.0\.0\.1:(\d+) serves", line)[1])
        finally:
            server.kill()


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sent")
    for color in CLASSES:
        photo(color, 7).save(folder / f"{color}.jpg")
    return folder


def post(connection, path):
    body = json.dumps({"images": [base64.b64encode(path.read_bytes()).decode()]})
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status == 200, answer
    if response.headers.get("connection") == "close":
        connection.close()  # http.client then opens another
    return answer[0]["predictions"][0]["label"]


def test_sigterm_under_load_loses_no_accepted_request(random_run, jpegs):
    expected = {
        path: fr.load(random_run).predict(path).labels[0] for path in sorted(jpegs.iterdir())
    }
    labels, wrong, cut = [], [], []

    def ask(port, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            while True:
                label = post(connection, path)
                labels.append(label)
                if label != expected[path]:
                    wrong.append(path)
        except ConnectionRefusedError:  # the end
            pass
        except (OSError, http.client.HTTPException) as error:
            cut.append(error)

    with running(random_run) as (server, port):
        clients = [threading.Thread(target=ask, args=(port, path)) for path in [*expected] * 3]
        for client in clients:
            client.start()
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=60)
        for client in clients:
            client.join()
    assert server.returncode == 0, errors
    answered = re.search(r"Stopped after ([\d,]+) answered requests", errors)[1]
    assert int(answered.replace(",", "")) == len(labels) > 9
    assert not wrong
    assert len(cut) <= 1, cut  # one may arrive in the instant in which the socket is closed


DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.querySelector(".drop").dispatchEvent(
    new DragEvent("drop", {dataTransfer, bubbles: true}));
}"""


def test_a_browser_drops_a_photo_and_reads_the_answer(random_run, jpegs):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    path = jpegs / "green.jpg"
    content = base64.b64encode(path.read_bytes()).decode()
    (expected,) = fr.load(random_run).predict(path).top(3)
    with running(random_run) as (_, port), playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for device in ("Desktop Chrome", "iPhone 13"):
            options = browsers.devices[device]
            options = {name: options[name] for name in options if name != "default_browser_type"}
            page = browser.new_context(**options).new_page()
            asked, errors = [], []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("console", lambda message, errors=errors: errors.append(message.text))
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.goto(f"http://127.0.0.1:{port}/")
            page.evaluate(DROP, [path.name, content])
            page.locator("article li").nth(2).wait_for()
            shown = page.locator("article .name").all_inner_texts()
            assert [text.split()[0] for text in shown] == [p.label for p in expected]
            assert shown[0].split()[1] == f"{expected[0].probability:.1%}"
            page.locator("article .heat").wait_for()
            assert not errors
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            own = rf"(blob:)?http://127\.0\.0\.1:{port}/|data:"
            assert all(re.match(own, url) for url in asked)
        browser.close()
