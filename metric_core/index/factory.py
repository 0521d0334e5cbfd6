"""The FAISS factory strings that an index can be built from: their grammar, and what is wrong with one.

The metric is the inner product. Refining, which FAISS's own factory has too, is done outside FAISS.
"""

import difflib
import re
from typing import Literal, NamedTuple

Code = Literal["Flat", "SQfp16", "SQ8", "PQ", "PQx8", "RaBitQ"]
Refine = Literal["SQfp16", "SQ8"]

FORMS = (
    "Flat",
    "SQfp16",
    "SQ8",
    "IVF<lists>,Flat",
    "IVF<lists>,SQfp16",
    "IVF<lists>,SQ8[,Refine(SQfp16)]",
    "IVF<lists>,PQ<M>x4fsr[,Refine(SQfp16)|,Refine(SQ8)]",
    "IVF<lists>,PQ<M>x8[,Refine(SQfp16)|,Refine(SQ8)]",
    "IVF<lists>,RaBitQfs[<bits>][,Refine(SQfp16)|,Refine(SQ8)]",
)
"""The accepted factory strings: M is the number of sub-quantisers, of 4 bits for fast-scan or of 8; RaBitQ's bits are
per component (1 if left out)."""

ANY_DIM = 0
"""In place of a dimension that is not known yet: what depends on it is not checked."""

_MAX_BITS = 9
"""FAISS's RaBitQ: one sign bit and up to 8 extra bits per component (``RaBitQuantizer``, nb_bits)."""

_NUMBER = "0|[1-9][0-9]*"

_FACTORY = re.compile(
    rf"(?:IVF(?P<nlist>{_NUMBER}),)?"
    rf"(?:(?P<code>Flat|SQfp16|SQ8)|PQ(?P<M>{_NUMBER})x(?P<pq>4fsr|8)"
    rf"|(?P<rabitq>RaBitQfs)(?P<bits>(?!1(?![0-9]))(?:{_NUMBER}))?)"
    r"(?:,Refine\((?P<refine>SQfp16|SQ8)\))?"
)
"""An index has one spelling, as its digest depends on it: no leading zeros, and no number for one bit."""

_PRECISION = ("SQ8", "SQfp16", "Flat")
"""Codes of the vectors themselves, coarsest first."""


class Parsed(NamedTuple):
    """A factory string's parts; of a number that does not apply, None."""

    nlist: int | None
    code: Code
    M: int | None
    bits: int | None
    refine: Refine | None


def parse(factory: str) -> Parsed | None:
    """The parts of a factory string; None if it has none of the forms. Numbers are not checked."""
    found = _FACTORY.fullmatch(factory)
    if not found:
        return None
    nlist = int(found["nlist"]) if found["nlist"] else None
    M = int(found["M"]) if found["M"] else None
    bits = int(found["bits"] or 1) if found["rabitq"] else None
    code: Code = found["code"]  # type: ignore[assignment]
    if bits is not None:
        code = "RaBitQ"
    elif M is not None:
        code = "PQ" if found["pq"] == "4fsr" else "PQx8"
    if nlist is None and (code in ("PQ", "PQx8", "RaBitQ") or found["refine"]):
        return None
    return Parsed(nlist, code, M, bits, found["refine"])  # type: ignore[arg-type]


def reasons_against(parsed: Parsed, dim: int) -> list[str]:
    """Why a factory string of an accepted form can't be built for vectors of ``dim`` components, or of ``ANY_DIM``."""
    reasons = []
    if parsed.nlist == 0:
        reasons.append("there must be 1 list or more")
    if parsed.M is not None and dim >= 1:
        if parsed.M < 1 or dim % parsed.M:
            reasons.append(f"M is {parsed.M}, which does not divide {dim} components; {_other_M(parsed, dim)}")
        elif parsed.M % 2 and parsed.code == "PQ":
            reasons.append(f"M is {parsed.M}, and fast-scan stores an even number of codes; {_other_M(parsed, dim)}")
    if parsed.bits is not None and not 1 <= parsed.bits <= _MAX_BITS:
        reasons.append(f"RaBitQ has 1 to {_MAX_BITS} bits per component, not {parsed.bits}")
    if parsed.refine and parsed.code in _PRECISION[_PRECISION.index(parsed.refine) :]:
        reasons.append(f"Refine({parsed.refine}) is needless: {parsed.code} is no less exact")
    return reasons


def _other_M(parsed: Parsed, dim: int) -> str:
    """The valid M on both sides of an invalid one, in words."""
    M, step = parsed.M or 0, 2 if parsed.code == "PQ" else 1
    valid = [m for m in range(step, dim + 1, step) if dim % m == 0]
    if not valid:
        return f"no even M divides {dim}: take RaBitQfs or SQ8"
    nearest = [m for m in valid if m < M][-1:] + [m for m in valid if m > M][:1]
    return f"nearest valid M: {' and '.join(map(str, nearest))}"


def nearest(factory: str, dim: int) -> str:
    """The valid string for ``dim``, or ``ANY_DIM``, that is spelled most like ``factory``; its numbers are kept where
    they are valid."""
    lists = found[1] if (found := re.search(r"IVF([1-9][0-9]*)", factory, re.IGNORECASE)) else "1024"
    M = found[1] if (found := re.search(r"PQ([0-9]+)", factory, re.IGNORECASE)) else "32"
    codes = [
        "SQfp16",
        "SQ8",
        f"PQ{M}x4fsr",
        f"PQ{M}x8",
        "RaBitQfs",
        *(f"RaBitQfs{bits}" for bits in range(2, _MAX_BITS + 1)),
    ]
    heads = [f"IVF{lists},{code}" for code in codes]
    forms = ["Flat", "SQfp16", "SQ8", f"IVF{lists},Flat", *heads]
    forms += [f"{head},Refine({refine})" for head in heads for refine in ("SQfp16", "SQ8")]
    parsed = {form: parse(form) for form in forms}
    valid = {form.lower(): form for form, parts in parsed.items() if parts and not reasons_against(parts, dim)}
    meant = re.sub(r"x4(?=,|$)", "x4fsr", factory.lower())  # codes of 4 bits are those of fast-scan
    return valid[difflib.get_close_matches(meant, valid, n=1, cutoff=0)[0]]
