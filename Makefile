# One-line targets; each is a command one could type.
UV ?= .uv/bin/uv

.PHONY: setup fmt lint type test slow schema graphiql check
setup:    ; python3 -m pip install --target .uv uv && $(UV) sync
fmt:      ; $(UV) run ruff format . && $(UV) run ruff check --fix .
lint:     ; $(UV) run ruff format --check . && $(UV) run ruff check . && $(UV) run lint-imports
type:     ; $(UV) run mypy && $(UV) run pyright
test:     ; $(UV) run pytest
slow:     ; $(UV) run pytest -m slow --dist load
schema:   ; $(UV) run countersign schema print > schema/schema.graphql
graphiql: ; $(UV) run python -m countersign.graphiql
check:    ; .ci/run
