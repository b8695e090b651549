"""Provenance mark of synthetic images: an XMP packet with IPTC's digital source type and the generator's name.

Source: IPTC Photo Metadata Standard 2023.1, https://cv.iptc.org/newscodes/digitalsourcetype/.
"""

from __future__ import annotations

from pathlib import PurePath
from xml.sax.saxutils import quoteattr

from syncclip.core.secrets import without_secrets
from syncclip.core.text import CUT
from syncclip.synthesis.generators.weights import COMMIT
from syncclip.synthesis.plan import Entry, Plan

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:CreatorTool={name}
 Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/{source_type}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def mark_of(plan: Plan, entry: Entry) -> bytes:
    """Return an image's XMP packet, a pure function of the arguments; empty if the plan has no mark."""
    if plan.mark == "none":
        return b""
    guided = plan.guide_of(entry.label, entry.image) is not None
    source_type = "compositeWithTrainedAlgorithmicMedia" if guided else "trainedAlgorithmicMedia"
    return PACKET.format(name=quoteattr(generator_name(plan)), source_type=source_type).encode()


def generator_name(plan: Plan) -> str:
    """Return an endpoint's model, the hub name of a pipeline, or the last component of a local path."""
    name = without_secrets(plan.generator.model or plan.generator.pipeline, is_value=True)
    if name.startswith(("/", "~", ".")) or not (plan.generator.endpoint or COMMIT.match(plan.weights)):
        name = PurePath(name).name
    return "".join(character if character.isprintable() else "?" for character in name[:CUT])
