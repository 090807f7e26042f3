"""The plain text of an XML element: without markup, formulas in one line."""

from xml.etree.ElementTree import Element

_MATHML = "{http://www.w3.org/1998/Math/MathML}"
_MATH = f"{_MATHML}math"
_INVISIBLE = dict.fromkeys(map(ord, "\u2061\u2062\u2063\u2064"))  # function application, times, separator, plus


def flat(element: Element) -> str:
    """The text in one line, with single spaces."""
    if not len(element):
        return " ".join((element.text or "").split())
    if element.find(f".//{_MATH}") is None:
        return " ".join("".join(element.itertext()).split())
    return " ".join("".join(_parts(element)).split())


def _parts(element: Element) -> list[str]:
    if element.tag == _MATH:
        return [_formula(element)]
    parts = [element.text or ""]
    for child in element:
        parts += [*_parts(child), child.tail or ""]
    return parts


def _formula(element: Element) -> str:
    """A formula in one line: whitespace is layout, and only fractions and roots need signs of their own."""
    name = element.tag.removeprefix(_MATHML)
    if name in ("annotation", "annotation-xml"):
        return ""
    own = " ".join((element.text or "").split()).translate(_INVISIBLE)
    inner = [own, *map(_formula, _as_read(element))]
    if name == "mfrac":
        return "/".join(part for part in inner if part)
    return ("√" if name in ("msqrt", "mroot") else "") + "".join(inner)


def _as_read(element: Element) -> list[Element]:
    """The children in reading order: scripts before the base follow it in MathML, after ``mprescripts``."""
    children = list(element)
    marks = [at for at, child in enumerate(children) if child.tag == f"{_MATHML}mprescripts"]
    return children[marks[0] :] + children[: marks[0]] if marks else children
