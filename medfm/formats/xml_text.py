"""XML as ECG carts write it: parsed without entities, repaired where free text broke the markup."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from medfm.types import Finding, ReadError

MAX_BYTES = 256_000_000

_STRAY_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#\d{1,7}|#x[0-9a-fA-F]{1,6});)")
_STRAY_BRACKET = re.compile(r"<(?!/?[A-Za-z_][\w.:-]*(?:\s[^<>]*|/)?>|[!?])")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def decode(data: bytes) -> str:
    """Text in the encoding that the byte-order mark or the declaration names; else UTF-8, else Latin-1."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    declared = re.match(
        rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)[\"']", data.removeprefix(b"\xef\xbb\xbf")[:200]
    )
    for encoding in ([declared[1].decode("ascii")] if declared else []) + ["utf-8-sig"]:
        try:
            return data.decode("utf-8-sig" if encoding.lower() == "utf-8" else encoding)
        except (LookupError, UnicodeDecodeError):  # a wrong declaration is common: try the next
            continue
    return data.decode("latin-1")


def parse(path: Path) -> tuple[Element, str, list[Finding]]:
    """Root element with namespaces stripped from the tags, the text that parsed, and a finding where it was
    repaired.

    Carts write `QT < 400` and `A & B` into statements unescaped: a stray sign is escaped and the text parsed
    again.

    Raises:
        ReadError: no XML even after repair, or one with entity definitions (which could expand without
        bound).
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if path.stat().st_size > MAX_BYTES:
        raise ReadError(
            f"{path}: an XML file of {path.stat().st_size / 1e6:.0f} MB is no ECG; give one record a file."
        )
    text = decode(path.read_bytes())
    text = re.sub(
        r"^\s*<\?xml[^>]*\?>", "", text.lstrip("\ufeff"), count=1
    )  # its encoding has been applied already
    findings: list[Finding] = []
    try:
        try:
            root = fromstring(text)
        except ParseError:
            text = _STRAY_BRACKET.sub("&lt;", _STRAY_AMPERSAND.sub("&amp;", _FORBIDDEN.sub(" ", text)))
            root = fromstring(text)
            message = "the XML held unescaped characters (such as & or <) in its text; they were repaired."
            findings.append(Finding("repaired-xml", message, "info"))
    except ParseError as error:
        raise ReadError(
            f"{path}: is not well-formed XML ({error}); export it again from the ECG system."
        ) from error
    except DefusedXmlException as error:
        raise ReadError(
            f"{path}: defines XML entities, which an ECG export never does; it is not read."
        ) from error
    for element in root.iter():
        if isinstance(element.tag, str) and "}" in element.tag:
            element.tag = element.tag.rsplit("}", 1)[1]
    return root, text, findings


def text_of(element: Element | None, path: str, default: str = "") -> str:
    """Stripped text of a descendant, ``default`` where it is missing or empty."""
    found = None if element is None else element.find(path)
    return (found.text or "").strip() or default if found is not None else default
