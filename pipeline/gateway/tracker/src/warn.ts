/** The function, with its exceptions as warnings in the console: none may reach the page. */
export const guarded =
  <Args extends unknown[]>(what: (...args: Args) => unknown) =>
  (...args: Args): void => {
    try {
      what(...args);
    } catch (error) {
      console.warn(error);
    }
  };
