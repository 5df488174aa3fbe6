"""The XMP packet of a picture: how it came to be (IPTC's DigitalSourceType), its recipe, and what its source said.

The values are those of https://cv.iptc.org/newscodes/digitalsourcetype/ (IPTC Photo Metadata 2023.1); readers of
pictures, from Exiftool to search engines, tell pictures made or edited by models from photographs by them.
"""

import re
from collections.abc import Mapping
from typing import Any
from xml.dom import minidom
from xml.parsers.expat import ExpatError

from limner.runtime.pictures.carried_texts import PREFIX

__all__ = ["COMPOSITE", "GENERATED", "make_packet", "read_fields", "source_type"]

NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
COMPOSITE = NEWSCODES + "compositeWithTrainedAlgorithmicMedia"  # an edited picture
GENERATED = NEWSCODES + "trainedAlgorithmicMedia"  # made from nothing but a seed and words

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
OURS = "urn:limner:1:"
XMLNS = "http://www.w3.org/2000/xmlns/"
TYPE = "DigitalSourceType"
MAX_BYTES = 1_000_000
EMPTY = (
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">'
    '<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta>'
)
HEAD, TAIL = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '<?xpacket end="w"?>'


def make_packet(
    mark: str | None,  # COMPOSITE, GENERATED or None
    fields: Mapping[str, str],  # "limner.recipe" and the like; others are left out
    source: bytes | None = None,  # the packet of the source, which is kept
) -> tuple[bytes, bool]:
    """Return a packet, and whether what the source said is in it: one that does not read is left out."""
    document = None if source is None else _parsed(source)
    kept = document is not None or source is None
    if document is None:
        document = minidom.parseString(EMPTY)
    description = _description(document)
    if mark is not None:
        _drop(document, IPTC, lambda name: name == TYPE)
        _set(description, IPTC, "Iptc4xmpExt", TYPE, mark)
    _drop(document, OURS, lambda name: True)
    for name, value in fields.items():
        if name.startswith(PREFIX):
            _set(description, OURS, "limner", name.removeprefix(PREFIX), value)
    root = document.documentElement
    assert root is not None
    return f"{HEAD}{root.toxml()}{TAIL}".encode(), kept


def read_fields(packet: bytes) -> dict[str, str]:
    """Return what Limner wrote into a packet, {"limner.recipe": ...}; empty for one that does not read."""
    document = _parsed(packet)
    found: dict[str, str] = {}
    for element in [] if document is None else document.getElementsByTagNameNS(RDF, "Description"):
        for attribute in _attributes(element):
            if attribute.namespaceURI == OURS:
                found[PREFIX + str(attribute.localName)] = attribute.value
        for child in element.childNodes:
            if child.namespaceURI == OURS:  # other programs write properties as elements
                text = "".join(node.data for node in child.childNodes if node.nodeType == node.TEXT_NODE)
                found[PREFIX + str(child.localName)] = text
    return found


def source_type(packet: bytes) -> str | None:
    """Return the DigitalSourceType of a packet."""
    document = _parsed(packet)
    for element in [] if document is None else document.getElementsByTagNameNS(RDF, "Description"):
        if element.hasAttributeNS(IPTC, TYPE):
            return str(element.getAttributeNS(IPTC, TYPE))
        for child in element.getElementsByTagNameNS(IPTC, TYPE):
            resource = child.getAttributeNS(RDF, "resource")
            return str(resource or "".join(node.data for node in child.childNodes if node.nodeType == node.TEXT_NODE))
    return None


def _parsed(packet: bytes) -> Any:
    """The document of a packet with one rdf:RDF in it; None for anything else, and for one that defines entities."""
    if len(packet) > MAX_BYTES or re.search(rb"<!(DOCTYPE|ENTITY)", packet):
        return None
    begin, end = packet.find(b"<x:xmpmeta"), packet.rfind(b"</x:xmpmeta>")
    if begin >= 0 and end > begin:
        packet = packet[begin : end + len(b"</x:xmpmeta>")]
    else:  # without the outer element
        begin, end = packet.find(b"<rdf:RDF"), packet.rfind(b"</rdf:RDF>")
        if begin < 0 or end < begin:
            return None
        packet = packet[begin : end + len(b"</rdf:RDF>")]
    try:
        packet.decode("utf-8")
        document = minidom.parseString(packet)
    except (ExpatError, ValueError, RecursionError):
        return None
    return document if document.getElementsByTagNameNS(RDF, "RDF") else None


def _description(document: Any) -> Any:
    """The first rdf:Description at the top, made where there is none."""
    rdf = document.getElementsByTagNameNS(RDF, "RDF")[0]
    for child in rdf.childNodes:
        if child.namespaceURI == RDF and child.localName == "Description":
            return child
    prefix = rdf.prefix or "rdf"
    made = document.createElementNS(RDF, f"{prefix}:Description")
    made.setAttributeNS(RDF, f"{prefix}:about", "")
    return rdf.appendChild(made)


def _set(element: Any, namespace: str, prefix: str, name: str, value: str) -> None:
    element.setAttributeNS(XMLNS, f"xmlns:{prefix}", namespace)
    element.setAttributeNS(namespace, f"{prefix}:{name}", value)


def _drop(document: Any, namespace: str, which: Any) -> None:
    """Take properties of a namespace out, attributes and elements."""
    for element in document.getElementsByTagNameNS(RDF, "Description"):
        for attribute in _attributes(element):
            if attribute.namespaceURI == namespace and which(attribute.localName):
                element.removeAttributeNode(attribute)
        for child in list(element.childNodes):
            if child.namespaceURI == namespace and which(child.localName):
                element.removeChild(child)


def _attributes(element: Any) -> list[Any]:
    return [element.attributes.item(place) for place in range(element.attributes.length)]
