"""The wire: messages, services and the only code that knows both them and our types.

`alignedvq/v1/inference.proto` is the protocol, with its generated code beside it. `messages` holds
what a message says as checked dataclasses, `convert` turns our types into messages and back, and
`status` does the same for errors.
"""
