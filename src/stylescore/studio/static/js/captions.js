// Captions that the studio writes of photos, where a model for that is on its machine.
import { getCaption, wantCaption } from "./api.js";
import { changed } from "./state.js";

const SECONDS = 600;
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Have a caption written of a photo, and put it there. */
export async function suggestCaption(photo) {
  if (photo.caption) return;
  try {
    if (!(await wantCaption(photo.id)).available) return;
    for (let waited = 0; waited < SECONDS; waited += 0.7) {
      await pause(0.7);
      const { caption, waiting } = await getCaption(photo.id);
      if (waiting) continue;
      photo.caption = caption;
      changed("captions");
      return;
    }
  } catch {
    // The photo was removed, or the studio ended: it has no caption then.
  }
}
