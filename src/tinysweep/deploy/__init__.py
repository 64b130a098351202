"""A trained model elsewhere: exported as ONNX, and naming what it sees in pictures."""
