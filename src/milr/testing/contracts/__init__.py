"""The contracts of models, rewards, methods and benchmarks as checks, for authors of new ones.

Three lines are a test::

    from milr.testing.contracts import check_reward

    def test_contract() -> None:
        check_reward("my-reward")

milr's own pass the same checks. Nothing is fetched; a reward that asks a server is checked with the server in its
settings.
"""

from milr.testing.contracts.benchmarks import check_benchmark
from milr.testing.contracts.methods import check_method
from milr.testing.contracts.models import check_model
from milr.testing.contracts.rewards import check_reward
from milr.testing.contracts.violations import ContractError

__all__ = ["ContractError", "check_benchmark", "check_method", "check_model", "check_reward"]
