"""The scoring contract: what clients send and what they receive.

`requests`: body to cells; `cells`: one cell to an image or an explanation request; `answers`: the types of answers;
`encoding`: answers to JSON; `errors`: error bodies and messages.
"""
