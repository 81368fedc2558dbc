"""Tables + keys → Plan: what each target key is made of. Sees keys, shapes and facts about values, never bytes."""

from ckptconv.plan.heads import NONE, Chosen, choose, select
from ckptconv.plan.losses import refused_drops
from ckptconv.plan.make import ask, make_plan, resized_dims, respelled, same_plan, ties
from ckptconv.plan.steps import Facts, Fill, Plan, Resized, Rows, Step, Told

__all__ = [
    "NONE",
    "Chosen",
    "Facts",
    "Fill",
    "Plan",
    "Resized",
    "Rows",
    "Step",
    "Told",
    "ask",
    "choose",
    "make_plan",
    "refused_drops",
    "resized_dims",
    "respelled",
    "same_plan",
    "select",
    "ties",
]
