import sandlock_notif


def test_everything_public_exists() -> None:
    assert all(hasattr(sandlock_notif, name) for name in sandlock_notif.__all__)
