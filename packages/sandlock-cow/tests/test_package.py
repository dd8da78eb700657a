import sandlock_cow


def test_everything_public_exists() -> None:
    assert all(hasattr(sandlock_cow, name) for name in sandlock_cow.__all__)
