"""The letters of languages, by which encodings of one byte a letter are told apart.

The same byte is ``ë`` in one encoding and ``ė`` in another, and both are letters. But hardly any
text uses letters that no single language has.
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

    The most common encoding comes first: a text with few such letters fits several.
    """
    for encoding, alphabets in ALPHABETS.items():
        letters = _letters(sample, encoding)
        if letters and any(letters <= set(alphabet) for alphabet in alphabets):
            return encoding
    return None


def _letters(sample: bytes, encoding: str) -> set[str]:
    """Return the letters outside ASCII, in small ones."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError:
        return set()
    folded = (letter.lower()[0] for letter in set(text) if not letter.isascii())
    return {letter for letter in folded if letter.isalpha() and not letter.isascii()}
