"""Networks: plain torch modules, one file each.

Reading order: ``stylegan2`` and ``discriminator``, ``clip`` (transformers' model and its two towers), ``irse``
(identity, and the encoder's body), ``psp`` (the e4e encoder), ``mapper`` (latent mappers), ``judge`` (for evaluation
alone), ``resample`` (resizes as fixed matrices), ``store`` (checkpoint folders).
"""
