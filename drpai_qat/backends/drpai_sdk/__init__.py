"""The DRP-AI SDK's tools: today its options, which are refused by name."""
