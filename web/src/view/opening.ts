// Was a terminal asked for by a click in these pages? A link on a page of others opens none by itself.

let asked: string | null = null;

const key = (hostId: string, login: string): string => `${hostId} ${login}`;

/** A link to a terminal was clicked. */
export function noteOpening(hostId: string, login: string): void {
  asked = key(hostId, login);
}

/** Whether this terminal was asked for, once. */
export function takeOpening(hostId: string, login: string): boolean {
  const isAsked = asked === key(hostId, login);
  asked = null;
  return isAsked;
}
