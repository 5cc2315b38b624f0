"""What `make lower` prints and writes: a table for people, rows for `maskgolf bench compare`."""

from harness.bench.measure import row
from harness.lower.roofline import Assumptions, Sum


def rows(
    preset: str, sums: dict[tuple, Sum], assumed: Assumptions, machine: str, settings: str
) -> list[dict]:
    """Return the sums as rows of SPEC section 13: candidate is the predicted time, the rest null.

    launches, bytes, flops and note stand beside; the first row states the assumptions.
    """
    note = f"predicted, not measured; {settings}"
    made = [
        row(f"lower {preset}: {phase}: {part}", candidate=total.ms, unit="ms")
        | {"launches": total.launches, "bytes": int(total.bytes), "flops": total.flops}
        | {"note": note, "machine": machine}
        for (phase, part), total in sums.items()
    ]
    if made:
        made[0]["assumptions"] = assumed.stated()
    return made


def text(sums: dict[tuple, Sum], saved: dict[str, int], assumed: Assumptions) -> str:
    """Return the table and the assumptions as lines."""
    lines = [f"{'phase':15} {'part':24} {'launches':>8} {'GB':>9} {'TFLOP':>8} {'ms':>9}"]
    for (phase, part), total in sums.items():
        moved, computed = total.bytes / 1e9, total.flops / 1e12
        numbers = f"{total.launches:8} {moved:9.2f} {computed:8.3f} {total.ms:9.2f}"
        lines.append(f"{phase:15} {part:24} {numbers}")
    lines += [
        f"{phase}: {size / 1e9:.2f} GB are kept for the backward pass"
        for phase, size in saved.items()
    ]
    lines += ["", "assumed:"]
    lines += [
        f"  {name} {value['value']:g}: {value['why']}" for name, value in assumed.stated().items()
    ]
    return "\n".join(lines)
