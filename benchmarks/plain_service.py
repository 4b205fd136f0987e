"""The service that most people write: FastAPI, Pillow, numpy and ONNX Runtime, one image a request, no defence.

`python -m benchmarks.plain_service DIR --port N` serves the classifier that `benchmarks.plain_model` made. It is meant to
be a fair opponent: it takes the raw body (multipart costs more), answers the best class only, and writes no access log.
ONNX Runtime keeps its default options, as it does in nearly every such service.
"""

import argparse
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image


def create_app(directory: Path, *, threads: int = 0) -> FastAPI:
    """Load model.onnx and classifier.json; `threads` are ONNX Runtime's for one image, 0 leaves its default."""
    classifier = json.loads((directory / "classifier.json").read_text())
    labels, size = classifier["labels"], classifier["size"]
    mean, std = (np.array(classifier[name], dtype=np.float32) for name in ("mean", "std"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        image = Image.open(io.BytesIO(await request.body())).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size))
        pixels = np.asarray(image, dtype=np.float32) / 255
        batch = ((pixels - mean) / std).transpose(2, 0, 1)[np.newaxis]
        logits = session.run(["logits"], {input_name: batch})[0][0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = int(scores.argmax())
        return {"predictions": [{"label": labels[best], "class_id": best, "score": float(scores[best])}]}

    return app


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    uvicorn.run(create_app(options.directory, threads=options.threads), port=options.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
