# Shortcuts; every target is one command that works without make too (see README.md).
.PHONY: check test format
check:
	ruff format --check . && ruff check . && mypy && lint-imports && python -m pytest
test:
	python -m pytest
format:
	ruff format . && ruff check --fix .
