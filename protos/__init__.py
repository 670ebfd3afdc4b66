"""The wire protocol, and the only code that knows both its messages and this project's types.

`alignedvq/v1/inference.proto` is the protocol, with its generated code beside it. `messages` holds
validated dataclasses of the messages, `convert` turns them and other types into messages and back,
and `status` does the same for errors.
"""
