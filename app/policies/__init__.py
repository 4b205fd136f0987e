"""How queries are answered: the policy in force, one for each account profile, and a candidate on trial."""

from app.policies.changes import Change, PolicyChanges
from app.policies.live import InForce, Plan, Policies, Policy, shown
from app.policies.reloadable import in_one_line

__all__ = ["Change", "InForce", "Plan", "Policies", "Policy", "PolicyChanges", "in_one_line", "shown"]
