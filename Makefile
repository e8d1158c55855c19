# Every target is one script, which says at its top what it does.
.PHONY: demo demo-clean image test fuzz vm-test bench lint

demo: ## two users' workspaces at http://ada.code.localhost:7080 (PORT=..., CLAUDE_CODE=1)
	@scripts/demo

demo-clean: ## remove every trace of the demo
	@scripts/demo-clean

image: ## only build the demo's workspace image
	@scripts/demo --image-only

test:
	@scripts/test

fuzz: ## odd requests against nginx's configuration (COUNT=1000000, SEED=...)
	@scripts/fuzz

vm-test: ## the whole stack in a guest (SCENARIOS="smoke switch")
	@vm-tests/guest/run $(SCENARIOS)

bench:
	@scripts/bench

lint:
	@scripts/lint
