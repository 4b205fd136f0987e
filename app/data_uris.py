"""Pictures inside a report's one HTML file."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image


def svg(figure: Figure) -> str:
    """A plot, sharp at every size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def png(pixels: NDArray[np.uint8]) -> str:
    """An image (height, width, 3), to the pixel."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
