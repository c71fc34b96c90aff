"""ECG records in XML: the root element tells GE MUSE, HL7 annotated ECG and Philips Sierra apart."""

from __future__ import annotations

from pathlib import Path

from medfm.formats import aecg_xml, muse_xml, philips_xml
from medfm.formats.base import existing_file, reading
from medfm.formats.xml_text import parse
from medfm.types import ReadError, Signal


def read(path: str | Path) -> Signal:
    """One ECG in XML, in the units that the file states.

    Raises:
        ReadError: another kind of XML, one without waveforms, or one that is damaged.
    """
    path = existing_file(path)
    with reading(path, "ECG XML", "Export it again from the ECG system."):
        root, text, findings = parse(path)
        kind = root.tag.lower()
        if kind == "restingecg" or root.find(".//Waveform/LeadData") is not None:
            return muse_xml.signal(path, root, findings)
        if kind == "annotatedecg" or root.find(".//sequenceSet") is not None:
            return aecg_xml.signal(path, root, findings)
        if kind == "restingecgdata":
            return philips_xml.signal(path, root, text, findings)
        if kind in ("healthdata", "clinicaldocument"):
            raise ReadError(
                f"{path}: is the index of a health export; give its ECG files (Apple: the CSV files in "
                "electrocardiograms/)."
            )
    raise ReadError(
        f"{path}: XML of the kind <{root.tag}> is not read; export the ECG as GE MUSE XML, HL7 aECG, Philips "
        "Sierra XML or DICOM."
    )
