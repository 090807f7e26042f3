"""``python -m abstream.ops.kubernetes``"""

from . import RULES, prometheus_rule

RULES.write_text(prometheus_rule(), encoding="utf-8")
