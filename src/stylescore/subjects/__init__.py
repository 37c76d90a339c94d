"""What the loop can fit: a picture's latent, or a network that stylizes any picture."""

from stylescore.subjects.base import Subject as Subject
from stylescore.subjects.latent import LatentSubject as LatentSubject
from stylescore.subjects.network import NetworkSubject as NetworkSubject
