"""Draws a dial as SVG: bits by layer, keys above the line and values below it, coloured by scheme.

In the colours of the page around it, light or dark; details where the pointer rests.
"""

from collections.abc import Iterator
from html import escape

from hwledger_omlx.cache.sizes import size_text
from hwledger_omlx.kv.dial_view import DialView, HeldLayer, HeldPart, headline, scheme_of

_COLOURS = {"16": "#8a8f98", "affine": "#3b82c4", "channel": "#d9822b", "rotated": "#3f9b62"}
_STEP, _LEFT, _HALF, _AXIS = 20, 34, 88, 122
"""Pixels: of a layer, to the first layer, of 16 bits, from the top to the line between keys and values."""
_LEAST_WIDTH = 420
_FULL_BITS = 16.0
_NUMBERED_ALL = 24
"""With more layers, every fourth is numbered."""


def dial_svg(view: DialView) -> str:
    """The picture, as an `<svg>` element."""
    width = max(_LEAST_WIDTH, _LEFT + _STEP * len(view.layers) + 16)
    said = escape(headline(view))
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_AXIS + _HALF + 40}" width="{width}" '
        'role="img" font-family="sans-serif" font-size="11" fill="currentColor">',
        f"<title>{said}</title>",
        _text(0, 12, _shortened(headline(view), width // 6)),
        _text(0, _AXIS - _HALF // 2, "K"),
        _text(0, _AXIS + _HALF // 2, "V"),
        *_scale(width),
    ]
    for place, layer in enumerate(view.layers):
        drawn += _layer(_LEFT + _STEP * place, layer, numbered=len(view.layers) <= _NUMBERED_ALL or not place % 4)
    drawn.append(_line(width, _AXIS, 1.0))
    return "".join([*drawn, *_legend(view), "</svg>"])


def _scale(width: int) -> Iterator[str]:
    for bits in (4, 8, 16):
        length = _HALF * bits / _FULL_BITS
        for y in (_AXIS - length, _AXIS + length):
            yield _line(width, y, 0.15)
            yield _text(_LEFT - 4, y + 4, str(bits), ' text-anchor="end" opacity="0.6"')


def _layer(x: float, layer: HeldLayer, *, numbered: bool) -> Iterator[str]:
    if numbered:
        yield _text(x + _STEP / 2, _AXIS + _HALF + 16, str(layer.layer), ' text-anchor="middle"')
    for part, side in ((layer.k, "K"), (layer.v, "V")):
        if part is not None:
            length = _HALF * min(part.bits, _FULL_BITS) / _FULL_BITS
            y = _AXIS - length if side == "K" else _AXIS
            colour = _COLOURS.get(scheme_of(part.format), _COLOURS["16"])
            yield (
                f'<rect x="{x + 2:g}" y="{y:g}" width="{_STEP - 4}" height="{length:g}" rx="2" fill="{colour}">'
                f"<title>{escape(_detail(layer.layer, side, part))}</title></rect>"
            )


def _legend(view: DialView) -> Iterator[str]:
    used = {scheme_of(part.format) for layer in view.layers for part in layer.parts}
    for place, name in enumerate(name for name in _COLOURS if name in used):
        x, y = _LEFT + 90 * place, _AXIS + _HALF + 26
        yield f'<rect x="{x}" y="{y}" width="10" height="10" fill="{_COLOURS[name]}"/>'
        yield _text(x + 14, y + 9, "16 bit" if name == "16" else name)


def _detail(layer: int, side: str, part: HeldPart) -> str:
    said = f"layer {layer} {side}: {part.format}, {part.bits:.2f} bits, {size_text(part.nbytes)}"
    if part.rest != part.format:
        said += f"; at rest {part.rest}"
    if part.measured is not None:
        said += f"; KL {part.measured.kl:.5f}, attention error {part.measured.error:.3f}"
    return said


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'


def _line(width: int, y: float, opacity: float) -> str:
    return f'<line x1="{_LEFT}" x2="{width - 8}" y1="{y:g}" y2="{y:g}" stroke="currentColor" opacity="{opacity:g}"/>'


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 1] + "…"
