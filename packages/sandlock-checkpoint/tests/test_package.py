import sandlock_checkpoint


def test_everything_public_exists() -> None:
    assert all(hasattr(sandlock_checkpoint, name) for name in sandlock_checkpoint.__all__)
