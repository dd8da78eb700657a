"""pytest plugin shared by the test suites of sandlock; never published."""
