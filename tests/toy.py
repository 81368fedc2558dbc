"""A made-up family with what deltalm.tbl lacks: fused projections and a transposed matrix."""

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
