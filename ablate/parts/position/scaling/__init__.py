"""How RoPE's frequencies change for contexts longer than the trained one.

A scaling is supplied with the shape, the number of turned channels and the base; called with the
frequencies (turned/2,) it returns the new ones and a gain for cos and sin (so for q.k its square).
Where a scaling needs the context trained at, `trained` null is this model's context / factor: the
model at hand is the extended one.
"""
