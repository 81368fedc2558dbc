"""A plan carried out on numpy arrays: the oracle for what `conversion.write` does to files."""

from __future__ import annotations

import numpy as np

from ckptconv.plan import Fill, Plan


def carry_out(plan: Plan, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every target key's array, tied ones included; dtypes are left as they are."""
    result = {}
    for step in plan.steps:
        parts = []
        for part in step.parts:
            if isinstance(part, Fill):
                parts.append(np.full((part.rows, *step.shape[1:]), part.value, np.float32))
                continue
            array = arrays[part.key]
            rows = array[part.start : part.stop] if array.ndim else array
            rows = rows.T if part.transposed else rows
            parts.append(rows + arrays[part.plus.key][part.plus.start] if part.plus else rows)
        result[step.key] = np.concatenate(parts) if step.shape else parts[0]
        assert result[step.key].shape == step.shape
    return result
