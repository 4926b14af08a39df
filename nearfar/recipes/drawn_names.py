"""Product names drawn in five fonts and read by a real OCR engine: records with a picture and a noisy text.

The pictures are made, the errors of the texts are not: each is what the engine reads in that very picture.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from nearfar.data.source import cache_folder
from nearfar.errors import MissingExtra
from nearfar.experiment import DataFolder
from nearfar.files import atomic_file, fingerprint_of_file
from nearfar.progress import track

VERSION = 1
"""Raised when drawing changes, so that cached records of the old one are not taken."""
NAMES, LENGTH = 800, 24
"""Names drawn, and characters kept of a title (whole words)."""
FONTS = (
    "DejaVuSans",
    "DejaVuSerif-Bold",
    "DejaVuSansMono-Oblique",
    "STIXGeneral",
    "STIXGeneralItalic",
)
"""Files of matplotlib. Row i is drawn in font i modulo 5."""
UNREAD = "?"
"""The text of a picture in which nothing was read."""
ENGINE = "rapidocr_onnxruntime"


@dataclass(frozen=True)
class Scan:
    """How badly names are scanned.

    Attributes:
        height: of a picture, in pixels.
        noise: standard deviation of grey noise, of 255.
        blur: largest radius, in pixels.
        skew: largest rotation, in degrees.
    """

    height: int
    noise: float
    blur: float
    skew: float


NOISY, CLEAN = Scan(16, 20.0, 0.8, 1.0), Scan(32, 5.0, 0.3, 0.5)


def drawn_names(data: DataFolder, scan: Scan) -> Path:
    """A Parquet file of 800 names of the Abt-Buy set, five records of each: image, text (as read), name.

    Drawn and read at the first call.

    Raises:
        MissingExtra: they are not cached, and there is no OCR engine to read them.
    """
    source = data.file("product_matching/abt_buy.parquet")
    identity = [VERSION, NAMES, LENGTH, FONTS, asdict(scan), fingerprint_of_file(source)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    place = cache_folder() / "drawn-names" / f"{digest}.parquet"
    if not place.exists():
        with atomic_file(place) as temporary:
            _made(_names(source), scan).to_parquet(temporary)
    return place


def _names(source: Path) -> list[str]:
    frame = pd.read_parquet(source)
    titles = pd.unique(pd.concat([frame["left_name"], frame["right_name"]]))
    short = list(dict.fromkeys(_first_words(" ".join(title.split())) for title in titles))
    return [short[i] for i in np.sort(np.random.default_rng(0).permutation(len(short))[:NAMES])]


def _first_words(title: str) -> str:
    if len(title) <= LENGTH:
        return title
    return title[: LENGTH + 1].rpartition(" ")[0] or title[:LENGTH]


def _made(names: list[str], scan: Scan) -> pd.DataFrame:
    random = np.random.default_rng(0)
    named = [(name, font) for name in names for font in FONTS]
    pictures = [draw(name, font, scan, random) for name, font in named]
    return pd.DataFrame(
        {"image": list(map(_png, pictures)), "text": read(pictures), "name": [name for name, _ in named]}
    )


def draw(name: str, font: str, scan: Scan, random: np.random.Generator) -> Image.Image:
    """A grey picture of a name, as badly scanned as `scan` says."""
    import matplotlib

    letters = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf", 28)
    left, top, right, bottom = letters.getbbox(name)
    picture = Image.new("L", (int(right - left) + 16, int(bottom - top) + 16), 255)
    ImageDraw.Draw(picture).text((8 - left, 8 - top), name, fill=int(random.integers(90)), font=letters)
    turned = picture.rotate(
        random.uniform(-scan.skew, scan.skew), Image.Resampling.BICUBIC, expand=True, fillcolor=255
    )
    small = turned.resize((round(turned.width * scan.height / turned.height), scan.height))
    blurred = small.filter(ImageFilter.GaussianBlur(random.uniform(0, scan.blur)))
    grey = np.asarray(blurred, dtype=np.float32)
    return Image.fromarray((grey + random.normal(0, scan.noise, grey.shape)).clip(0, 255).astype(np.uint8))


def read(pictures: list[Image.Image]) -> list[str]:
    """What the OCR engine reads in each picture of a line."""
    try:
        engine = importlib.import_module(ENGINE).RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)
    except ModuleNotFoundError:
        raise MissingExtra(
            "names are read by an OCR engine: pip install rapidocr-onnxruntime==1.4.4 (its models are in it)"
        ) from None
    texts = []
    for picture in track(pictures, "reading pictures"):
        found, _ = engine(np.asarray(picture.convert("RGB")), use_det=False, use_cls=False)
        texts.append((found[0][0].strip() if found else "") or UNREAD)
    return texts


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
