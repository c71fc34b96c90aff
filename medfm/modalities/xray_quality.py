"""What is no radiograph, and named findings about one: what a radiographer would say before a radiologist looks."""

from __future__ import annotations

import numpy as np

from medfm.types import Finding, Image, ReadError

SMALLEST = 16  # pixels a side: PneumoniaMNIST has 28
PROJECTIONS = ("CR", "DX", "MG", "RF", "XA", "IO", "PX", "RG", "DR", "PR")
UNKNOWN = ("", "OT", "SC")  # what captures and converted films call themselves
OTHERS = {
    "CT": "a CT slice",
    "MR": "an MR slice",
    "US": "an ultrasound picture",
    "NM": "a nuclear medicine picture",
    "PT": "a PET slice",
    "SEG": "a segmentation",
    "ES": "an endoscopy picture",
    "GM": "a microscopy picture",
    "SM": "a slide of pathology",
    "XC": "a photograph",
    "OP": "an eye photograph",
    "DOC": "a document",
    "ECG": "an ECG",
}
COLOURED, PAINTED = (
    0.12,
    0.12,
)  # chroma of a pixel that is coloured; share of them that makes a colour picture
HOUNSFIELD = -500.0  # below: air in a CT slice
INVERTED = -0.1  # of :func:`polarity`


def refuse(image: Image) -> None:
    """Raise :class:`ReadError` for what cannot be a radiograph: by its header, its size, its values or its colours."""
    modality = str(image.meta.get("modality", "")).upper()
    if modality not in (*PROJECTIONS, *UNKNOWN):
        what = OTHERS.get(modality, f"an object of modality {modality}")
        raise ReadError(f"is {what}, not a radiograph.")
    if "Secondary" not in str(image.meta.get("sop_class", "")) and modality in UNKNOWN:
        kind = str(image.meta.get("sop_class", ""))
        if other := next((w for k, w in OTHERS.items() if kind.startswith(f"{k} Image")), None):
            raise ReadError(f"is {other}, not a radiograph.")
    if modality in UNKNOWN and (shown := str(image.meta.get("slice", ""))):
        raise ReadError(
            f"states no modality, but {shown}, as a slice of a volume does: not a radiograph. If it is one, set its "
            "Modality."
        )
    rows, columns = image.x.shape[1:]
    if min(rows, columns) < SMALLEST:
        raise ReadError(
            f"has {columns} x {rows} pixels, too few to show anything (at least {SMALLEST} a side): an icon?"
        )
    if not 1 / 6 < rows * image.aspect / columns < 6:
        raise ReadError(f"has {columns} x {rows} pixels: a strip, not a radiograph.")
    if image.valid is not None and not image.valid.any():
        raise ReadError("is nothing but padding; export it from the archive again.")
    low, high = _range(image)
    if low == high:
        raise ReadError(f"has the value {low:g} everywhere: nothing was exposed, or its pixels were lost.")
    if image.format == "dicom" and modality in UNKNOWN and low < HOUNSFIELD:
        raise ReadError(
            f"states no modality and has values down to {low:g}, as Hounsfield units are: a CT slice, not a radiograph. If "
            "it is one, set its Modality."
        )
    if len(image.x) == 3 and (share := painted(image.x)) > PAINTED:
        raise ReadError(f"is a colour picture ({share:.0%} of it), not a radiograph.")


def _range(image: Image) -> tuple[float, float]:
    """Smallest and largest value of the picture, row by row: a mammogram is not copied for it."""
    lows, highs = [], []
    for row in range(image.x.shape[1]):
        values = image.x[:, row] if image.valid is None else image.x[:, row, image.valid[row]]
        if values.size:
            lows.append(float(values.min()))
            highs.append(float(values.max()))
    return min(lows), max(highs)


def painted(x: np.ndarray) -> float:
    """Share of pixels of ``x [3, H, W]`` whose channels differ by more than 12 % of the brightest value."""
    step = max(1, int(np.sqrt(x[0].size / 250_000)))
    small = x[:, ::step, ::step]
    chroma = small.max(axis=0) - small.min(axis=0)
    return float(np.mean(chroma > COLOURED * max(float(small.max()), 1e-6)))


def assess(image: Image, grey: np.ndarray) -> tuple[Finding, ...]:
    """All findings about a radiograph. grey: ``[h, w]`` as it is shown, 0 to 1, NaN where no picture is, uncropped,
    at most some 1000 pixels a side."""
    found = [*_header(image)]
    if len(image.x) == 3 and (share := painted(image.x)) > 1e-4:
        message = f"{share:.2%} of it is coloured: marks that were drawn in, which a model reads as well."
        found.append(Finding("colour-marks", message))
    if (score := polarity(grey)) < INVERTED:
        message = (
            f"looks inverted (bone dark, score {score:.2f}): the file's polarity may be wrong. Look at it; "
            "modality.invert=always turns such files round."
        )
        found.append(Finding("polarity", message))
    glyphs, lines = writing(grey)
    if lines:
        message = (
            f"has {lines} line{'s' * (lines > 1)} of burned-in writing: it may name the patient, and a model can learn "
            "the hospital from it."
        )
        found.append(Finding("burned-in-text", message))
    elif glyphs:
        found.append(Finding("marker", "has a side marker or a few letters near its edge.", "info"))
    return tuple(found)


def _header(image: Image) -> list[Finding]:
    meta, found = image.meta, []
    view = str(meta.get("view", ""))
    if view:
        found.append(Finding("view", f"{view} view.", "info"))
    else:
        found.append(Finding("view-unknown", "the file states no view (PA, AP, lateral).", "info"))
    if str(meta.get("intent", "")).upper() == "FOR PROCESSING":
        message = (
            "is the detector's raw data (for processing), which looks unlike what is read in a clinic; "
            "export the image for presentation."
        )
        found.append(Finding("for-processing", message))
    if str(meta.get("burned_in", "")).upper() == "YES":
        found.append(
            Finding(
                "burned-in-annotation", "states that it has burned-in annotation; it may name the patient."
            )
        )
    if str(meta.get("modality", "")).upper() in UNKNOWN and image.format == "dicom":
        found.append(Finding("modality-unstated", "does not state that it is a radiograph.", "info"))
    if meta.get("spacing_plane") == "detector":
        message = (
            "its pixel spacing holds on the detector; in the patient it is smaller by an unknown factor."
        )
        found.append(Finding("detector-spacing", message, "info"))
    return found


def polarity(grey: np.ndarray) -> float:
    """Positive where bone is bright: (spine - lungs) + (middle grey - left, right and upper edge) of the exposed part.

    Measured on the 5030 images of PneumoniaMNIST: below -0.1 for none of them, and for all but two once inverted. On
    other parts of the body it says that the background is dark.
    """
    rows, columns = _inside(grey)
    x = grey[rows, columns]
    height, width = x.shape

    def mean(top: float, bottom: float, left: float, right: float) -> float:
        part = x[
            int(top * height) : max(int(bottom * height), 1), int(left * width) : max(int(right * width), 1)
        ]
        return float(np.nanmean(part)) if np.isfinite(part).any() else 0.0

    spine = mean(0.3, 0.8, 0.44, 0.56)
    lungs = (mean(0.25, 0.6, 0.18, 0.38) + mean(0.25, 0.6, 0.62, 0.82)) / 2
    edge = max(1, round(min(height, width) / 28))
    ring = np.concatenate([x[:edge].ravel(), x[:, :edge].ravel(), x[:, -edge:].ravel()])
    ring = ring[np.isfinite(ring)]
    middle = float(np.nanmedian(x))
    return (spine - lungs) + (middle - float(ring.mean()) if ring.size else 0.0)


def _inside(grey: np.ndarray) -> tuple[slice, slice]:
    """Without even borders (collimation, padding); everything where less than a quarter of a side would be left."""
    slices = []
    for axis, length in ((1, grey.shape[0]), (0, grey.shape[1])):
        filled = np.where(np.isfinite(grey), grey, 0.0)
        low, high = np.percentile(filled, (10, 90), axis=axis)
        busy = np.flatnonzero(high - low > 0.02)
        whole = len(busy) < 2 or busy[-1] - busy[0] < length / 4
        slices.append(slice(None) if whole else slice(int(busy[0]), int(busy[-1]) + 1))
    return slices[0], slices[1]


def writing(grey: np.ndarray) -> tuple[int, int]:
    """Glyphs and lines of bright writing: sharp thin strokes of a letter's size, four or more of them on one line.

    Strokes are what a grey opening takes away (thinner than a hundredth of the picture, brighter than their ground by
    a quarter). Only writing in the outer fifths counts for glyphs: clips and electrodes lie further in.
    """
    from scipy import ndimage

    height, width = grey.shape
    if min(height, width) < 200:
        return 0, 0
    filled = np.nan_to_num(grey)
    thick = max(3, round(max(height, width) / 100)) | 1
    strokes = filled - ndimage.grey_opening(filled, size=(thick, thick)) > 0.25
    # Writing has sharp edges; a rib's or a collimator's edge is as bright and not as steep on both sides.
    steep = ndimage.morphological_gradient(filled, size=(3, 3)) > 0.25
    labels, count = ndimage.label(strokes, structure=np.ones((3, 3)))
    if count == 0 or count > 20_000:
        return 0, 0
    boxes = ndimage.find_objects(labels)
    sharp = ndimage.mean(steep, labels, np.arange(1, count + 1))
    tall, least = max(height, width) / 15, max(6.0, max(height, width) / 150)
    glyphs = []
    for box, crisp in zip(boxes, sharp):
        h, w = (s.stop - s.start for s in box)
        if least <= h <= tall and 1 <= w <= 1.5 * h + 4 and crisp > 0.6:
            glyphs.append((box[0].start, box[0].stop, box[1].start, box[1].stop))
    lines = _lines(glyphs)
    outer = [g for g in glyphs if _outer(g, height, width)]
    return len(outer), lines


def _outer(glyph: tuple[int, int, int, int], height: int, width: int) -> bool:
    y, x = (glyph[0] + glyph[1]) / 2 / height, (glyph[2] + glyph[3]) / 2 / width
    return min(y, 1 - y, x, 1 - x) < 0.2


def _lines(glyphs: list[tuple[int, int, int, int]]) -> int:
    """Rows of at least four glyphs, alike in height, each next to the one before."""
    waiting, lines = sorted(glyphs, key=lambda g: g[2]), 0
    while waiting:
        last = waiting.pop(0)
        run = 1
        for glyph in list(waiting):
            h = last[1] - last[0]
            alike = 0.5 * h <= glyph[1] - glyph[0] <= 2 * h and abs(glyph[1] - last[1]) <= 0.4 * h
            if alike and -1 <= glyph[2] - last[3] <= 1.5 * h:
                run, last = run + 1, glyph
                waiting.remove(glyph)
        lines += run >= 4
    return lines
