"""A made-up family with what deltalm.tbl lacks: fused projections and a transposed matrix."""

from __future__ import annotations

from ckptconv.tables.expand import Dims, row_names, templates, there_at
from ckptconv.tables.model import Index, Table

TABLE = """
family  toy
layout  split   safetensors  -
layout  fused   torch  model
layout  paddle  torch  -
let     i  0..layers
let     param  weight|bias
shape   split          fused                 paddle
v,d     emb.weight     embed.weight          word.weight
prefix  h.{i}.         h.{i}.                h.{i}.
d,d     q.{param}      in_{param}[0/3]       q.{param}
d,d     k.{param}      in_{param}[1/3]       k.{param}
d,d     v.{param}      in_{param}[2/3]       v.{param}
f,d     fc.weight      "                     fc.weight^T
resize  vocab  v
"""


def held(table: Table, layout: str, dims: Dims) -> dict[str, int | bool]:
    """The dims that a file of the layout can have: no option, name or size that none of its rows has, one head where it
    has one, and no option whose keys are all that head's."""
    options = {row.option.removeprefix("!") for row in table.rows if row.option}
    own = {t.row.option for t in templates(table, layout)}
    kept = {name: size and (name in own or name not in options) for name, size in dims.items()}
    heads = [head for head in table.heads_of(layout) if kept.get(head)]
    kept |= dict.fromkeys(heads[1:], False)
    there = set(there_at(table, layout, kept))
    if heads:
        kept |= {name: False for name in own & options if name not in {t.row.option for t in there}}
    named = {name for template in there for name in row_names(template.row, table.lets)}
    used = {symbol for template in there for symbol in template.symbols} | options
    used |= {let.dim for let in table.lets.values() if isinstance(let, Index)}
    return {name: size for name, size in kept.items() if name in used or name.partition("=")[0] in named}
