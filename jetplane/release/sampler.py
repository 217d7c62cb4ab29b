"""Draws the noise, with OpenDP. The only module that holds it, in a process that ends right after.

Integers alone: the discrete Gaussian (Canonne, Kamath and Steinke, 2020), by exact arithmetic on 64-bit integers. Noise
made of floating-point numbers tells its input by its low bits. `i64` has to be said: OpenDP's plain "int" has 32 bits.
Its exceptions repeat the value they refuse, so none of them leaves this module.
"""

from __future__ import annotations

from fractions import Fraction

from jetplane.metrics.ledger import NotReleased

_SLACK = Fraction(1, 1_000_000)
"""OpenDP reports the cost of a mechanism as a rounded-up floating-point number; the budget leaves more than this."""


def noisy(value: int, *, sigma: int, clip: int) -> int:
    """`value` with discrete Gaussian noise of standard deviation `sigma`.

    Raises NotReleased, which says nothing of the value, when it cannot be had or would cost more than clip² / 2 sigma².
    """
    try:
        import opendp.prelude as dp

        dp.enable_features("contrib")
        mechanism = dp.m.make_gaussian(dp.atom_domain(T="i64"), dp.absolute_distance(T="i64"), scale=float(sigma))
        cost = Fraction(mechanism.map(clip))  # type: ignore[no-untyped-call]
        drawn = mechanism(value)
    except Exception:
        raise NotReleased("the noise cannot be drawn; this epoch is skipped", hint="is opendp installed?") from None
    if cost > Fraction(clip**2, 2 * sigma**2) * (1 + _SLACK):
        raise NotReleased("the noise costs more privacy than the ledger was told; this epoch is skipped")
    return int(drawn)
