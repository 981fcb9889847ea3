"""Alphabets of languages, used to choose between single-byte encodings.

The same byte is ``ë`` in one encoding and ``ė`` in another, and both are letters. But in most texts
all letters belong to the alphabet of a single language.
"""

from __future__ import annotations

WESTERN = (
    "äöüß",  # German
    "àâæçèéêëîïôœùûüÿ",  # French
    "áéíñóúüªº",  # Spanish
    "àáâãçéêíóôõúüªº",  # Portuguese
    "àèéìíîòóùúªº",  # Italian
    "àçèéíïòóúü",  # Catalan
    "áèéêëíïóöúü",  # Dutch
    "àåäéöü",  # Swedish, Finnish
    "åæéèêóòôøü",  # Danish, Norwegian
    "áæéíðóöúýþ",  # Icelandic
    "äõöüšž",  # Estonian
)
CENTRAL = (
    "ąćęłńóśźż",  # Polish
    "áčďéěíňóřšťúůýž",  # Czech
    "áäčďéíĺľňóôŕšťúýž",  # Slovak
    "áéíóöőúüű",  # Hungarian
    "âîăşţ",  # Romanian
    "ćčđšž",  # Croatian, Slovene
)
TURKISH = ("âçîöûüğış",)
BALTIC = (
    "ąčėęįšūųž",  # Lithuanian
    "āčēģīķļņšūž",  # Latvian
    "äõöüšž",  # Estonian
)
ALPHABETS = {"cp1252": WESTERN, "cp1250": CENTRAL, "cp1254": TURKISH, "cp1257": BALTIC}


def encoding_of(sample: bytes) -> str | None:
    """Return the encoding in which all letters of a text belong to one language, or None.

    Encodings are tried from the most common one: a text with few such letters fits several.

    Args:
        sample: bytes of a text or of a part of it.
    """
    for encoding, alphabets in ALPHABETS.items():
        letters = _letters(sample, encoding)
        if letters and any(letters <= set(alphabet) for alphabet in alphabets):
            return encoding
    return None


def _letters(sample: bytes, encoding: str) -> set[str]:
    """Return the letters outside ASCII, in lower case."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return set()
    folded = (letter.lower()[0] for letter in set(text) if not letter.isascii())
    return {letter for letter in folded if letter.isalpha() and not letter.isascii()}
