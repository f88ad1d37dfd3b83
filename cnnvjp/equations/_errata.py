"""What the sources get wrong, with the correction and the reason.

`_as_printed` computes the faulty formulas; the tests tell each from its correction.
"""

from dataclasses import dataclass

__all__ = [
    "ERRATA",
    "Erratum",
]


@dataclass(frozen=True)
class Erratum:
    """A fault of a source.

    Attributes:
        source: its key, such as ``"[H]"``.
        where: the equation, or the slide.
        printed: what it says, shortened.
        corrected: what is right.
        why: the reason.
    """

    source: str
    where: str
    printed: str
    corrected: str
    why: str


ERRATA: tuple[Erratum, ...] = (
    Erratum(
        source="[J]",
        where="3",
        printed="Σ_m=0…k₁−1 Σ_n=0…k₂−1 I(i+m, j+n) K(−m, −n)",
        corrected="Σ_m=−(k₁−1)…0 Σ_n=−(k₂−1)…0 I(i+m, j+n) K(−m, −n)",
        why="Turning the sign of m and n turns the limits too. With those printed, all of K but "
        "K(0, 0) is read outside the kernel.",
    ),
    Erratum(
        source="[J]",
        where="3, the sentence after it",
        printed="a flipped kernel, K(−m, −n) = K(m, n)",
        corrected="a flipped kernel K′, K′(m, n) = K(−m, −n)",
        why="What is printed describes a symmetric kernel, for which flipping changes nothing.",
    ),
    Erratum(
        source="[J]",
        where="4",
        printed="Σ_m,n,c K_m,n,c I_i+m,j+n,c + b",
        corrected="Σ_m,n,c K_m,n,c,d I_i+m,j+n,c + b_d",
        why="The bank has D filters and D biases, so that the kernel, the bias and the result need "
        "an index d. Without it there is one map.",
    ),
    Erratum(
        source="[J]",
        where="4 and 5",
        printed="(I * K)_ij = Σ K_m,n I_i+m,j+n + b, with the kernel said to be flipped",
        corrected="(I ⊗ K)_ij + b = Σ K_m,n I_i+m,j+n + b, with nothing flipped",
        why="By the source's own 1 and 2 the right-hand side is a cross-correlation, not *.",
    ),
    Erratum(
        source="[J]",
        where="6 and 7",
        printed="x_ij = … + b_ij",
        corrected="x_ij = … + b",
        why="The notation list, 11 and 17 have one bias for a layer. An untied bias is another "
        "model: it can give any map, not only a constant.",
    ),
    Erratum(
        source="[J]",
        where="9",
        printed="mean squared error: E = ½ Σ_p (t_p − y_p)²",
        corrected="half the sum of the squared errors",
        why="The mean has 1/P. The gradients of the two differ by a factor of P/2.",
    ),
    Erratum(
        source="[J]",
        where="14, the picture by a reader's account",
        printed="∂E/∂w₁ = δ₄ o₁ + δ₃ o₂ + δ₂ o₄ + δ₁ o₅",
        corrected="∂E/∂w₁ = δ₁ o₁ + δ₂ o₂ + δ₃ o₄ + δ₄ o₅",
        why="Convolving with rot180{δ} turns it back. To lay rot180{δ} on o as it is forgets that "
        "second turn.",
    ),
    Erratum(
        source="[J]",
        where="19, the first term",
        printed="w_m′,n′ f(x_0−m+m′,0−n+n′)",
        corrected="w_0,0 f(x_i′−m,j′−n)",
        why="The first term has m′ = n′ = 0; i′ and j′ stay. As printed it no longer depends on "
        "the pixel.",
    ),
    Erratum(
        source="[J]",
        where="21",
        printed="rot180{ Σ_m,n δ_i′+m,j′+n w_m,n } f′(x_i′,j′)",
        corrected="Σ_m,n δ_i′+m−k₁+1,j′+n−k₂+1 rot180{w}_m,n f′(x_i′,j′)",
        why="Only the kernel is rotated. To rotate the sum turns the whole gradient round.",
    ),
    Erratum(
        source="[J]",
        where="22",
        printed="δ * rot180{w} f′(x)",
        corrected="δ * w f′(x)",
        why="The * of 2 already rotates the kernel; rotated twice, it is as it was. With ⊗, and "
        "zeros around δ, rot180{w} is right.",
    ),
    Erratum(
        source="[J]",
        where="22, an answer of the author to a reader",
        printed="backpropagation uses the convolution without padding",
        corrected="14 is without padding; 22 needs k − 1 zeros on each side of δ",
        why="Without padding 22 gives fewer deltas than the layer has pixels: only those that "
        "every tap of the kernel has touched.",
    ),
    Erratum(
        source="[H]",
        where="8.18 and 8.19",
        printed="S_r = (R_r + 2Pᵈ − r) / Sᵗ + 1",
        corrected="S_r = ⌊(R_r + 2Pᵈ − r) / Sᵗ⌋ + 1",
        why="The division leaves a remainder unless the last window ends at the border.",
    ),
    Erratum(
        source="[H]",
        where="8.18, the text before it",
        printed="stride 2 reduces the output's size by a factor of 2",
        corrected="stride 2 reduces S to ⌊(S − 1) / 2⌋ + 1 = ⌈S / 2⌉",
        why="With the 4×4 input and 2×2 kernel of its figure 8.3 the output goes from 3 to 2. The "
        "factor is 2 for even S only.",
    ),
    Erratum(
        source="[H]",
        where="8.36 and 8.37",
        printed="db = ⊞ᵃᵛᵉ dN, average pooling over the map",
        corrected="db = Σ_i,j dn_i,j, the sum over the map",
        why="8.36 rightly has no 1 / (S_r S_c): b moves every n_i,j by as much as itself. ⊞ᵃᵛᵉ "
        "without the weight that 8.23 writes is a sum.",
    ),
    Erratum(
        source="[H]",
        where="8.39, 8.41 and 8.44",
        printed="Σ_h=1…Hⁿ",
        corrected="Σ_h=1…Hᵐ",
        why="h counts the maps of layer m, all of which a map of layer n feeds; Hⁿ is the number "
        "of the latter. The summary repeats it.",
    ),
    Erratum(
        source="[H]",
        where="8.45, the sum",
        printed="dA^l = Σ_l=1…Hⁿ (rot180 LW^h,l) ⊗ dLZ^h",
        corrected="dA^l = Σ_h=1…Hᵐ (rot180 LW^h,l) ⊗ dLZ^h",
        why="l stands on the left and cannot be summed over. The summary repeats it.",
    ),
    Erratum(
        source="[H]",
        where="8.41, 8.44 and 8.45, the border",
        printed="(rot180 LW) ⊗ dLZ",
        corrected="(rot180 LW) ⊗ dLZ with r − 1 and c − 1 zeros on each side",
        why="By 8.13, ⊗ stays within its image and gives S_r − r + 1 rows; dA has S_r + r − 1. "
        "In 8.41 and 8.44 the indices of dlz leave its map, where it must count as 0.",
    ),
    Erratum(
        source="[H]",
        where="P8.2, the words",
        printed="one pixel to the left and one pixel up",
        corrected="one pixel to the right and one pixel up",
        why="The problem asks for right and up, and the kernel found, drawn in the axes of P8.1, "
        "does that.",
    ),
    Erratum(
        source="[H]",
        where="P8.2 and E8.4, the matrix",
        printed="W = [[0, 1], [0, 0]]",
        corrected="[[0, 0], [1, 0]] ⊗ P, P padded by ((0, 1), (1, 0))",
        why="W is a picture in the axes of P8.1, with its origin at the lower left. Put as a "
        "matrix into 8.8, whose rows go down, it shifts to the right only.",
    ),
    Erratum(
        source="[H]",
        where="P8.3",
        printed="∂lz^h/∂a^l = lw^h within the window",
        corrected="∂lz^h/∂a^h = lw^h within the window, and ∂lz^h/∂a^l = 0 for l ≠ h",
        why="Pooling takes each map by itself.",
    ),
    Erratum(
        source="[H]",
        where="P8.4",
        printed="dlw = ⊞ᵃᵛᵉ (dLZ ∘ (⊞ᵃᵛᵉ A)), with ⊞ᵃᵛᵉ called average pooling",
        corrected="dlw = Σ_i,j dlz_i,j { Σ_u,v a_r(i−1)+u,c(j−1)+v }",
        why="Both are plain sums, as the line before has them: the pooling's weight is in lw.",
    ),
    Erratum(
        source="[B]",
        where="Backpropagation through Multi-Channel Convolution",
        printed="Conv(∇Z R̂, W†_1, …, W†_K)",
        corrected="Conv(∇Z R̂, W†_1, …, W†_C)",
        why="There is one rearranged filter for each of the C input channels, with K channels. An "
        "earlier slide and the summary have it right.",
    ),
    Erratum(
        source="[B]",
        where="the chain rule of upsampling, headed Downsampling",
        printed="Backpropagation: Downsampling",
        corrected="Backpropagation: Upsampling",
        why="The slide differentiates the nine outputs of uSample with respect to its four inputs.",
    ),
    Erratum(
        source="[B]",
        where="Backpropagation through Downsampling",
        printed="∇X R̂ = uSample(∇Z R̂, S)",
        corrected="∇X R̂ = uSample(∇Z R̂, S), then zeros up to X's size",
        why="The two undo each other's size only if S divides n − 1. Otherwise the last rows and "
        "columns are missing, and the size must be told, as in [GBC].",
    ),
    Erratum(
        source="[S]",
        where="W flipped",
        printed="[[w₃, w₄], [w₂, w₁]]",
        corrected="[[w₄, w₃], [w₂, w₁]]",
        why="The upper row is not reversed. The slides check a to d only, which the upper row "
        "meets with zeros; at stride 1, e to p come out wrong.",
    ),
)
