"""Three lines hold the plug-in to its contract: pytest test_contract.py."""

from milr.testing.contracts import check_reward


def test_contract() -> None:
    check_reward("warmth")
