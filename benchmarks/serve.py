"""The server under load on loopback, beside LitServe and a plain FastAPI server of PyTorch.

    python -m benchmarks.serve speed RUN [--torch PYTHON] [--lit PYTHONPATH] [--seconds 10]
    python -m benchmarks.serve hold RUN [--checked 5000] [--requests 100000] [--malformed 1000]

``speed`` gives photos per second and the median and 99th percentile of the latency at 1, 8 and 64
clients, each of which sends its next photo (a JPEG of 500x375, in base64 as JSON) when it has the
answer to its last. The servers run one after another, in each round in another order, on the same
photos: ours by both engines; LitServe with the same classifier, batches of 16 and a delay of 5 ms;
and the usual tutorial's FastAPI server of torchvision's model of the same architecture. ``predict``
is ``Classifier.predict`` of the same photos in a process of its own, in batches of 16, of the model
and of its ONNX file. Beside each rate is the processor time of the server and its children for each
photo, which other programs on the machine change little.

``hold`` shows on a small run what must hold under overload, for many requests, for malformed
uploads and at SIGTERM; each answer is compared with the prediction of its photo in this process.
Requests go to this machine only.
"""

import argparse
import asyncio
import base64
import importlib
import io
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

BATCH = 16


def photos(count, size):
    """Return JPEGs of different smooth colours and noise."""
    import numpy as np
    from PIL import Image

    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG")
        made.append(file.getvalue())
    return made


def request_of(content, path="/predict"):
    body = json.dumps({"images": [base64.b64encode(content).decode()]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def ask(reader, writer, request):
    """Send a request; return the status, the body, and whether the connection stays open."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    body = await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), body, b"connection: close" not in head


async def load(port, clients, next_request, on_answer):
    """Let clients send requests until ``next_request()`` is None or the server takes none.

    Returns:
        The number of connections that ended without an answer.
    """
    lost = 0

    async def client():
        nonlocal lost
        writer = None
        while (item := next_request()) is not None:
            key, request = item
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            started = time.perf_counter()
            try:
                status, body, stays = await ask(reader, writer, request)
            except (OSError, asyncio.IncompleteReadError):
                lost += 1
                return
            on_answer(key, status, body, time.perf_counter() - started)
            if not stays:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return lost


READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def statuses_of(port, request):
    """Return the status of the answer to a request in a list; an empty one without an answer."""
    statuses, items = [], iter([(0, request)])
    await load(port, 1, lambda: next(items, None), lambda key, status, *_: statuses.append(status))
    return statuses


@contextmanager
def server(command, environment=None, request=None):
    """A server that answers, as a process and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [word.replace("PORT", str(port)) for word in command]
    env = os.environ | (environment or {})
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(words, env=env, start_new_session=True, **pipes) as run:
        os.set_blocking(run.stderr.fileno(), False)
        try:
            for _ in range(600):
                if run.poll() is not None:
                    raise RuntimeError((run.stderr.read() or b"").decode()[-2000:])
                statuses = asyncio.run(statuses_of(port, request or READY))
                if statuses == [200]:
                    break
                time.sleep(0.5)
            yield run, port
        finally:
            with suppress(ProcessLookupError):  # LitServe's workers outlive it
                os.killpg(run.pid, signal.SIGKILL)


def ours(run, *words):
    return [sys.executable, "-m", "flax_resnet", "serve", run, "--port", "PORT", *words]


def serve_torch(name, port):
    """The usual tutorial: a model in eval mode, and one forward pass for each request."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from PIL import Image

    from tests.weights.torchvision_import import torchvision

    v2 = importlib.import_module("torchvision.transforms.v2")
    model = getattr(torchvision.models, name)().eval()
    transform = v2.Compose(
        [
            *(v2.Resize(256, antialias=True), v2.CenterCrop(224), v2.PILToTensor()),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    app = FastAPI()

    @app.post("/predict")
    def predict(request: dict):
        image = Image.open(io.BytesIO(base64.b64decode(request["images"][0]))).convert("RGB")
        with torch.inference_mode():
            best = model(transform(image)[None]).softmax(1)[0].topk(5)
        return {"probabilities": best.values.tolist(), "indices": best.indices.tolist()}

    uvicorn.run(app, port=port, log_level="error")


def predict_rate(run, seconds):
    """Print photos per second of ``Classifier.predict``, and seconds of the processor a photo."""
    import flax_resnet as fr

    fr.tune_cpu()
    classifier, batch = fr.load(run), photos(4 * BATCH, (500, 375))
    classifier.predict(batch, batch_size=BATCH)
    count, started, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < seconds:
        classifier.predict(batch, batch_size=BATCH)
        count += len(batch)
    print(count / (time.perf_counter() - started), (time.process_time() - used) / count)


def processor_seconds(process):
    """Return the processor time of a process and its descendants so far, on Linux."""
    parents, seconds = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            ticks = sum(map(int, fields[11:15]))
            seconds[int(path.parent.name)] = ticks / os.sysconf("SC_CLK_TCK")

    def belongs(pid):
        return pid == process or (pid in parents and belongs(parents[pid]))

    return sum(taken for pid, taken in seconds.items() if belongs(pid))


def speed(run, seconds, rounds, clients_of, torch_python, lit_path):
    import flax_resnet as fr

    classifier = fr.load(run)
    name, exported = classifier.info.config.name, str(Path(run).with_suffix(".onnx"))
    if not Path(exported).exists():
        classifier.export(exported, preprocess=True)
    requests = [request_of(content) for content in photos(4 * BATCH, (500, 375))]
    this = [sys.executable, "-m", "benchmarks.serve"]
    limits = ("--batch-size", str(BATCH), "--timeout", "600")
    servers = {
        "serve": (ours(run, *limits), {}),
        "serve, onnxruntime": (ours(run, *limits, "--engine", "onnxruntime"), {}),
    }
    if lit_path is not None:
        lit = {"PYTHONPATH": f"{lit_path}:{Path.cwd()}"}
        words = [sys.executable, "-m", "benchmarks.serve_litserve", run, "PORT"]
        servers["LitServe"] = (words, lit)
    if torch_python is not None:
        words = [torch_python, "-m", "benchmarks.serve", "torch", name, "--port", "PORT"]
        servers["FastAPI and torch"] = (words, {})
    rows = {}

    def report(label, *values):
        rows.setdefault(label, []).append(values)
        print(row_of(label, values), flush=True)

    for number in range(rounds):
        for engine, model in {"": run, ", onnxruntime": exported}.items():
            command = [*this, "predict", model, "--seconds", str(seconds)]
            report(f"predict{engine}", *map(float, subprocess.check_output(command).split()))
        for server_name in list(servers) if number % 2 == 0 else list(servers)[::-1]:
            with server(*servers[server_name], request=requests[0]) as (process, port):
                for clients in clients_of:
                    used = processor_seconds(process.pid)
                    times, rate = measure(port, clients, requests, seconds)
                    used = (processor_seconds(process.pid) - used) / len(times)
                    label = f"{server_name}, {clients} client{'s' * (clients > 1)}"
                    ranks = (times[int(q * (len(times) - 1))] for q in (0.5, 0.99))
                    report(label, rate, used, *ranks)
    print(f"medians of {rounds} rounds")
    for label, values in rows.items():
        print(row_of(label, [statistics.median(column) for column in zip(*values, strict=True)]))


def row_of(label, values):
    rate, used, *ranks = values
    row = f"{label:32} {rate:6.1f} photos/s, {1000 * used:6.1f} ms of the processor a photo"
    if ranks:
        row += ", p50 {:6.0f} ms, p99 {:6.0f} ms".format(*(1000 * rank for rank in ranks))
    return row


def measure(port, clients, requests, seconds):
    """Return the sorted latencies in seconds of answers to clients, and answers per second."""
    times, sent = [], iter(range(10**9))
    started = time.perf_counter()

    def next_request():
        if time.perf_counter() < started + seconds:
            return (i := next(sent)), requests[i % len(requests)]

    def on_answer(key, status, body, took):
        assert status == 200, body
        times.append(took)

    assert asyncio.run(load(port, clients, next_request, on_answer)) == 0
    return sorted(times), len(times) / (time.perf_counter() - started)


def metric(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return float(re.search(rf"^{re.escape(name)} (\S+)", answer.read().decode(), re.M)[1])


class Checked:
    """Answers of a server, each compared with the offline prediction of its photo."""

    def __init__(self, run):
        import flax_resnet as fr

        contents = photos(50, (64, 48))
        predictions = fr.load(run).predict(contents).top(5)
        self.expected = [
            {found.label: found.probability for found in predictions[i]} for i in range(50)
        ]
        self.requests = [request_of(content) for content in contents]
        self.answers, self.wrong, self.busy, self.other = 0, 0, 0, []

    def next_until(self, is_done):
        sent = iter(range(10**9))

        def next_request():
            if not is_done():
                return (i := next(sent) % 50), self.requests[i]

        return next_request

    def __call__(self, key, status, body, took):
        if status == 200:
            self.answers += 1
            found = {p["label"]: p["probability"] for p in json.loads(body)[0]["predictions"]}
            right = self.expected[key]
            self.wrong += any(abs(found[n] - right.get(n, 0.0)) > 1e-5 for n in found)
        elif status == 429:
            self.busy += 1
        else:
            self.other.append((status, body))


def malformed(count):
    """Yield requests that are no photos: cut off, random, of another form or no HTTP body."""
    good = photos(1, (64, 48))[0]
    rng = random.Random(1)
    for number in range(count):
        kind = number % 8
        if kind == 0:
            yield number, request_of(good[: rng.randrange(len(good) // 2)])
        elif kind == 1:
            yield number, request_of(rng.randbytes(rng.randrange(3000)))
        elif kind == 2:
            yield number, request_of(b"\x89PNG\r\n\x1a\n" + rng.randbytes(500))
        else:
            body = [
                b'{"images": ["' + rng.randbytes(50).hex().encode() + b'!"]}',
                rng.randbytes(200),
                b"[" * rng.randrange(1, 50_000),
                b'{"images": [' + b'"",' * rng.randrange(1, 100) + b'""]}',
                b'--b\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + good,
            ][kind - 3]
            form = "multipart/form-data; boundary=b" if kind == 7 else "application/json"
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: {form}\r\n"
            yield number, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def hold(run, checked, many, bad):
    with server(ours(run, "--queue", "24")) as (process, port):
        answers = Checked(run)
        is_done = lambda: answers.answers >= checked  # noqa: E731
        lost = asyncio.run(load(port, 64, answers.next_until(is_done), answers))
        print(
            f"overload: {answers.answers:,} answers, {answers.wrong} wrong, {lost} lost, "
            f"{answers.busy:,} refused with 429, others {answers.other[:3]}"
        )

        before = {name: metric(port, name) for name in ("process_open_fds",)}
        files = set(Path("/tmp").iterdir())
        statuses = {}
        items = malformed(bad)

        def count(key, status, body, took):
            assert json.loads(body).keys() == {"error"}, body
            statuses[status] = statuses.get(status, 0) + 1

        lost = asyncio.run(load(port, 8, lambda: next(items, None), count))
        after = {name: metric(port, name) for name in before}
        admitted = metric(port, "flax_resnet_photos_admitted")
        new = set(Path("/tmp").iterdir()) - files
        again = Checked(run)
        asyncio.run(load(port, 4, again.next_until(lambda: again.answers >= 100), again))
        print(
            f"malformed: {sum(statuses.values()):,} refused {statuses}, {lost} lost; open files "
            f"{before} -> {after}, admitted {admitted:g}, new files {new}; then {again.answers} "
            f"answers, {again.wrong} wrong"
        )

        sizes, answers = [], Checked(run)
        for part in range(10):
            target = many * (part + 1) // 10
            is_done = lambda target=target: answers.answers >= target  # noqa: E731
            asyncio.run(load(port, 16, answers.next_until(is_done), answers))
            sizes.append(metric(port, "process_resident_memory_bytes") / 2**20)
        print(
            f"memory after each tenth of {answers.answers:,} requests, {answers.wrong} wrong, MiB: "
            + ", ".join(f"{size:.0f}" for size in sizes)
        )

        answers = Checked(run)

        async def until_sigterm():
            running = asyncio.ensure_future(
                load(port, 16, answers.next_until(lambda: False), answers)
            )
            await asyncio.sleep(3)
            process.send_signal(signal.SIGTERM)
            return await running

        served = metric(port, 'flax_resnet_requests_total{route="predict",status="200"}')
        lost = asyncio.run(until_sigterm())
        code, text = process.wait(60), (process.stderr.read() or b"").decode()
        total = int(re.search(r"Stopped after ([\d,]+)", text)[1].replace(",", ""))
        print(
            f"SIGTERM: exit code {code}; the server answered {total - served:,.0f}, the clients "
            f"have {answers.answers:,}; {answers.wrong} wrong, {lost} connections cut"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["speed", "hold", "predict", "torch"])
    parser.add_argument("run", help="a run's folder, or what fr.load takes")
    parser.add_argument("--port", type=int)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--torch", help="a Python with torch, torchvision and FastAPI")
    parser.add_argument("--lit", help="a folder for PYTHONPATH with LitServe")
    parser.add_argument("--checked", type=int, default=5000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--malformed", type=int, default=1000)
    options = parser.parse_args()
    if options.part == "speed":
        limits = options.seconds, options.rounds, options.clients
        speed(options.run, *limits, options.torch, options.lit)
    elif options.part == "hold":
        hold(options.run, options.checked, options.requests, options.malformed)
    elif options.part == "predict":
        predict_rate(options.run, options.seconds)
    else:
        serve_torch(options.run, options.port)


if __name__ == "__main__":
    main()
