"""Smoke tests of an installed wheel: ``python smoke.py NAME EXAMPLES`` from an empty folder.

Each function tests an extra, or the plain wheel, with the default model. The file is copied out of
the repository before it runs and imports nothing of it, so that all modules come from the wheel.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

PASSAGES = Path("corpus/passages.jsonl")
TINY = "recipes/tiny.toml"
QUESTION = "How do you stop a wound from bleeding?"
SCHEMA = {
    "type": "object",
    "properties": {"sky": {"enum": ["blue", "green"]}},
    "required": ["sky"],
    "additionalProperties": False,
}


def gritlm(*words: str) -> str:
    """Run the command and return its stdout."""
    command = [sys.executable, "-m", "gritlm", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gritlm {' '.join(words)}: {done.stderr.strip()[-400:]}")
    return done.stdout


def expect(condition: object, text: str) -> None:
    """End with an error if a condition is false."""
    if not condition:
        raise SystemExit(f"unexpected: {text}")


def imported(*names: str) -> None:
    """Import modules."""
    for name in names:
        importlib.import_module(name)


def post(url: str, body: Any) -> Any:
    """Return the JSON answer of a request."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def served(address: str) -> str:
    """Return the name of the model of a server."""
    with urllib.request.urlopen(f"{address}/v1/models", timeout=120) as answer:
        name: str = json.load(answer)["data"][0]["id"]
    return name


@contextmanager
def serving(*words: str, **environment: str) -> Iterator[str]:
    """Start ``gritlm serve``, yield its address, and end it with SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gritlm", "serve", "--port", str(port), *words]
    process = subprocess.Popen(command, env={**os.environ, **environment})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            expect(process.poll() is None, "the server ended before it was ready")
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address
        process.send_signal(signal.SIGTERM)
        expect(process.wait(timeout=60) == 0, "the server did not end with 0 after SIGTERM")
    finally:
        process.kill()


def plain(examples: Path) -> None:
    import gritlm as package

    expect("site-packages" in str(package.__file__), f"gritlm is at {package.__file__}")
    expect(gritlm("--version") == f"gritlm {package.__version__}\n", "gritlm --version")
    expect("embedding_dimension" in gritlm("info"), "gritlm info")
    expect(len(json.loads(gritlm("embed", "A text"))["embedding"]) == 576, "gritlm embed")
    expect(gritlm("search", QUESTION, str(examples / PASSAGES)), "gritlm search")
    expect(gritlm("generate", "Name a planet.", "--max-new-tokens", "8"), "gritlm generate")


def cli(examples: Path) -> None:
    gritlm("embed", "A text", "--output", "vectors.parquet")
    from pyarrow import parquet

    expect(parquet.read_table("vectors.parquet").num_rows == 1, "rows of the table")


def compiled(examples: Path) -> None:
    words = ("generate", "Name three planets.", "--max-new-tokens", "16")
    words = (*words, "--temperature", "0", "--dtype", "float32")
    expect(gritlm(*words) == gritlm(*words, "--compile"), "the compiled steps write another text")


def grammar(examples: Path) -> None:
    from gritlm import GritLM

    wanted = {"type": "json_schema", "json_schema": {"name": "sky", "schema": SCHEMA}}
    text = GritLM().chat("What colour is the sky?", response_format=wanted, max_new_tokens=24)
    expect(json.loads(text)["sky"] in ("blue", "green"), text)


def rag(examples: Path) -> None:
    gritlm("index", str(examples / PASSAGES), "--to", "store")
    expect("pressure" in gritlm("ask", QUESTION, "--store", "store"), "gritlm ask")


def qdrant(examples: Path) -> None:
    gritlm("index", str(examples / PASSAGES), "--to", "store", "--index", "qdrant")
    expect("pressure" in gritlm("ask", QUESTION, "--store", "store"), "gritlm ask")


def postgres(examples: Path) -> None:
    address = "postgresql://user@127.0.0.1:1/nothing?table=texts"  # no server listens on port 1
    command = [sys.executable, "-m", "gritlm", "index", str(examples / PASSAGES)]
    done = subprocess.run(
        [*command, "--to", "store", "--index", address], capture_output=True, text=True, check=False
    )
    expect(done.returncode == 2, f"exit code {done.returncode}")
    expect("Connection refused" in done.stderr, done.stderr)


def office(examples: Path) -> None:
    import pptx

    slides = pptx.Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[0])
    slide.shapes.title.text = "The library opens at nine."
    slides.save("hours.pptx")
    gritlm("index", "hours.pptx", "--to", "store")
    expect("nine" in gritlm("ask", "When does the library open?", "--store", "store"), "ask")


def pages(examples: Path) -> None:
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    document.new_page(200, 200)
    document.save("page.pdf")
    gritlm("index", "page.pdf", "--to", "store", "--pages", "--model", "senses")
    expect("page.pdf" in gritlm("store", "list", "store"), "the page is not listed")


def media(examples: Path) -> None:
    from gritlm import GritLM

    picture = {"type": "image", "path": str(examples / "pictures/shape.png")}
    question = {"type": "text", "text": "what is the red shape?"}
    text = GritLM("senses").chat([{"role": "user", "content": [picture, question]}])
    expect("triangle" in text, text)


def docling(examples: Path) -> None:
    from docling.document_converter import DocumentConverter

    DocumentConverter()
    expect("embedding_dimension" in gritlm("info"), "gritlm info next to docling")


def serve(examples: Path) -> None:
    with serving() as address:
        model = served(address)
        vectors = post(f"{address}/v1/embeddings", {"model": model, "input": "A text"})
        expect(len(vectors["data"][0]["embedding"]) == 576, "the vector")
        chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
        done = post(f"{address}/v1/chat/completions", {**chat, "max_tokens": 8})
        expect(done["choices"][0]["message"]["content"], "the chat")


def otel(examples: Path) -> None:
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            spans.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    with serving(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as address:
        post(f"{address}/v1/embeddings", {"model": served(address), "input": "A text"})
    expect(spans, "no span was exported")


def client(examples: Path) -> None:
    from gritlm.integrations import RagClient

    with serving("--store", "store") as address:
        body = {"documents": [{"id": "library", "text": "The library opens at nine."}]}
        post(f"{address}/v1/rag/documents", body)
        answer = RagClient(address).answer("When does the library open?", max_new_tokens=16)
        expect("nine" in answer.text, answer.text)


def langchain(examples: Path) -> None:
    from gritlm.integrations.langchain import GritLMEmbeddings

    expect(len(GritLMEmbeddings("default").embed_query("A text")) == 576, "the vector")


def llama_index(examples: Path) -> None:
    from gritlm.integrations.llama_index import GritLMEmbedding

    expect(len(GritLMEmbedding("default").get_query_embedding("A text")) == 576, "the vector")


def haystack(examples: Path) -> None:
    from gritlm.integrations.haystack import GritLMTextEmbedder

    embedder = GritLMTextEmbedder("default")
    embedder.warm_up()
    expect(len(embedder.run("A text")["embedding"]) == 576, "the vector")


def train(examples: Path) -> None:
    os.chdir(examples.parent)  # the paths in the run file are relative to the repository
    output = f"training.output_dir={os.environ['SMOKE_FOLDER']}/run"
    short = ("training.max_steps=2", "training.warmup_steps=0", "evaluation.eval_steps=2", output)
    gritlm("train", TINY, *(word for each in short for word in ("--set", each)))
    expect(list(Path(output.split("=")[1]).glob("adapter_model*")), "no adapter was written")


def evaluation(examples: Path) -> None:
    tasks = "COVID-QA,winogrande,KV-RAG"  # embedding, generation, answers
    gritlm("eval", "--tasks", tasks, "--limit", "2", "--no-cache", "--output", "report")
    report = json.loads(Path("report/report.json").read_text(encoding="utf-8"))
    found = {result["task"].split(" ")[0] for result in report["models"][0]["results"]}
    expect(found == set(tasks.split(",")), f"results of {found}")


def adapt(examples: Path) -> None:
    imported("openai")
    imported("gritlm.adapt.pipeline")  # a run takes minutes: tests/adapt
    expect("--questions-from" in gritlm("adapt", "--help"), "gritlm adapt --help")


def scale(examples: Path) -> None:
    texts = str(examples / PASSAGES)
    gritlm("embed", "--ray", "--workers", "1", "--input", texts, "--output", "vectors")
    expect(Path("vectors/_SUCCESS").exists(), "the output is not complete")


def bench(examples: Path) -> None:
    imported("numba", "sentence_transformers", "xllamacpp")


def gpu(examples: Path) -> None:
    imported("bitsandbytes", "liger_kernel")


def docs(examples: Path) -> None:
    imported("mkdocs", "mkdocs_static_i18n", "mkdocstrings_handlers.python", "material")


def release(examples: Path) -> None:
    imported("build", "twine", "check_wheel_contents")


def notebooks(examples: Path) -> None:
    imported("jupyterlab", "langchain_openai", "matplotlib", "openai")


def langchain_tests(examples: Path) -> None:
    imported("langchain_tests", "langchain_core")


def main() -> None:
    name, examples = sys.argv[1], Path(sys.argv[2])
    os.environ["SMOKE_FOLDER"] = str(Path.cwd())
    globals()[{"eval": "evaluation"}.get(name, name.replace("-", "_"))](examples)


if __name__ == "__main__":
    main()
