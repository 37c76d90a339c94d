"""What the loop can fit: a picture's latent, or a network that stylizes any picture."""

from stylescore.method.subjects.base import Subject as Subject
from stylescore.method.subjects.latent import LatentSubject as LatentSubject
from stylescore.method.subjects.network import NetworkSubject as NetworkSubject
