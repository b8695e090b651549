"""Provenance mark of synthetic images: an XMP packet with IPTC's digital source type and the generator's name.

Source: IPTC Photo Metadata Standard 2023.1, https://cv.iptc.org/newscodes/digitalsourcetype/.
"""

from __future__ import annotations

from pathlib import PurePath
from xml.sax.saxutils import quoteattr

from syncclip.core.text import cut, printable
from syncclip.synthesis.generators.weights import COMMIT
from syncclip.synthesis.plan import Entry, Plan

SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
GENERATED, GUIDED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
"""Source types of images generated from text alone and of images guided by a real image."""

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool={name}
 Iptc4xmpExt:DigitalSourceType="{source_type}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def mark_of(plan: Plan, entry: Entry) -> bytes:
    """Return an image's XMP packet, a pure function of the plan and of whether a real image guides the image.

    The packet is empty if the plan has no mark.
    """
    if plan.mark == "none":
        return b""
    source_type = GENERATED if plan.guide_of(entry.label, entry.image) is None else GUIDED
    name = quoteattr(cut(printable(generator_name(plan))))
    return PACKET.format(name=name, source_type=f"{SOURCE_TYPES}{source_type}").encode()


def generator_name(plan: Plan) -> str:
    """Return an endpoint's model, the hub name of a pipeline, or the last component of a local path."""
    name = plan.generator.model or plan.generator.pipeline
    is_public = plan.generator.endpoint or COMMIT.match(plan.weights) is not None
    return name if is_public and not name.startswith(("/", "~", ".")) else PurePath(name).name
